from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from oneblock.report import picture as picture_module
from oneblock.report.samples import check_samples_place, write_samples

pytest.importorskip("matplotlib")
IMAGES = torch.arange(6 * 16, dtype=torch.uint8).view(6, 1, 4, 4)


def test_images_lie_beside_their_picture_and_are_replaced(tmp_path: Path) -> None:
    place = tmp_path / "new" / "cats.png"
    for labels in (torch.arange(6), None):
        check_samples_place(place)
        assert write_samples(place, IMAGES, labels, columns=3) == place
        found = load_file(place.with_suffix(".safetensors"))
        assert found["images"].equal(IMAGES)
        assert ("labels" in found) == (labels is not None)
    assert place.is_file()


def test_what_is_no_image_has_no_picture(tmp_path: Path) -> None:
    check_samples_place(tmp_path / "x.png")
    assert write_samples(tmp_path / "x.png", torch.rand(6, 4)) == tmp_path / "x.safetensors"
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("name", ["x.foo", "noext", "x.safetensors", "x.pdf"])
def test_other_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a picture; use one that ends in \.png or \.jpg"):
        check_samples_place(tmp_path / name)


def test_files_of_something_else_stay(tmp_path: Path) -> None:
    save_file({"blocks.0.weight": torch.ones(2)}, tmp_path / "block-0.safetensors")
    with pytest.raises(ValueError, match=r"block-0\.safetensors exists and is not a file of samples; give another"):
        check_samples_place(tmp_path / "block-0.png")
    (tmp_path / "photo.png").write_bytes(b"of my cat")
    with pytest.raises(ValueError, match=r"photo\.png exists and is not a file of samples; give another place"):
        check_samples_place(tmp_path / "photo.png")


def test_the_package_for_pictures_is_asked_for_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("pictures need matplotlib")

    monkeypatch.setattr(picture_module, "_pyplot", absent)
    with pytest.raises(ImportError, match="pictures need matplotlib"):
        check_samples_place(tmp_path / "x.png")
