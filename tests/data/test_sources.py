import pickle
import sys
from pathlib import Path

import pytest
import torch

from oneblock.data.errors import MissingExtraError
from oneblock.data.memory import MemorySource
from oneblock.data.sources import load_images, open_source


def test_digits_are_split_once_and_for_all() -> None:
    pytest.importorskip("sklearn")
    train, test = load_images("digits"), load_images("digits", "test")
    assert (len(train), len(test), train.shape) == (1500, 297, (1, 8, 8))
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert torch.bincount(test.labels).min() > 15
    rows = torch.cat([train.images, test.images]).flatten(1).unique(dim=0)
    assert len(rows) == 1797
    assert train.fingerprint() == "c47b6e8849be60cb"


def test_fixed_sizes_are_padded_and_coloured() -> None:
    pytest.importorskip("sklearn")
    plain, padded = load_images("digits"), load_images("digits", size=12, channels=3)
    assert padded.shape == (3, 12, 12)
    torch.testing.assert_close(padded.images[:, :, 2:10, 2:10], plain.images.expand(-1, 3, -1, -1))
    assert int(padded.images.long().sum()) == 3 * int(plain.images.long().sum())
    with pytest.raises(ValueError, match="size=7 is smaller than the 8 pixels of digits"):
        load_images("digits", size=7)


def test_sources_from_memory() -> None:
    pytest.importorskip("sklearn")
    source = open_source("digits", "test")
    assert isinstance(source, MemorySource)
    images, labels = source.batch(0, 4, seed=0)
    assert (tuple(images.shape), tuple(labels.shape)) == ((4, 1, 8, 8), (4,))


@pytest.mark.parametrize(
    "spec", ["mnist", "", "digits:here", "folder", "folder:", "cifar10", "Digits", "tiny-imagenet"]
)
def test_unknown_specs_list_the_known_ones(spec: str) -> None:
    known = "digits, fashion-mnist, folder:DIR, cifar10:DIR, cifar100:DIR, tiny-imagenet:DIR, captions:DIR, scenes"
    message = f"data='{spec}' is unknown; {known}, hf:NAME are allowed"
    with pytest.raises(ValueError, match=message):
        load_images(spec)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="split='val' is unknown; 'train' or 'test'"):
        load_images("digits", "val")
    with pytest.raises(ValueError, match="size=0 is not possible"):
        load_images("digits", size=0)
    with pytest.raises(ValueError, match="channels=4 is not possible"):
        load_images("digits", channels=4)
    with pytest.raises(ValueError, match="sets colour; image, label and caption are allowed"):
        load_images("hf:someone/set,colour=x")


def test_directories_start_from_the_root(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sub.data_batch_1.bin does not exist") as caught:
        load_images("cifar10:sub", root=tmp_path)
    assert str(tmp_path / "sub") in str(caught.value)
    with pytest.raises(ValueError, match=r"folder:.*sub does not exist"):
        load_images("folder:sub", root=tmp_path)


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        ("sklearn", "digits", r"needs the package scikit-learn; .*pip install 'oneblock\[images\]'"),
        ("PIL.Image", "tiny-imagenet:x", r"needs the package pillow; .*'oneblock\[images\]'"),
        ("PIL.Image", "folder:x", r"needs the package pillow; .*'oneblock\[images\]'"),
        ("datasets", "hf:x", r"needs the package datasets; .*'oneblock\[hub\]'"),
    ],
)
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, module: str, spec: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=message):
        load_images(spec)


def test_the_missing_package_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(MissingExtraError("datasets", "hub")))
    assert str(error) == str(MissingExtraError("datasets", "hub"))
