import gzip
import struct
from pathlib import Path

import pytest
import torch

from oneblock.data.idx import fashion_folders, load_fashion_mnist, read_idx


def encode(array: torch.Tensor) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + bytes(array.flatten().byte().tolist())


def write_set(folder: Path, num: int, prefix: str = "train", num_labels: int | None = None) -> torch.Tensor:
    images = torch.randint(0, 256, (num, 28, 28), generator=torch.Generator().manual_seed(num)).to(torch.uint8)
    labels = torch.arange(num if num_labels is None else num_labels) % 10
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode(images)))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(encode(labels))
    return images


@pytest.mark.parametrize("packed", [True, False])
def test_axes_stand_in_order(tmp_path: Path, packed: bool) -> None:
    array = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    path = tmp_path / ("x.gz" if packed else "x")
    path.write_bytes(gzip.compress(encode(array)) if packed else encode(array))
    assert torch.equal(read_idx(path, 3), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes((0, 0, 8, 1)) + bytes(8), "starts with 00000801; 00000803 is allowed for 3 axes"),
        (b"", "starts with ; 00000803"),
        (bytes((0, 0, 8, 3)) + bytes(5), "has 9 bytes; 16 or more are allowed; it is truncated"),
        (encode(torch.zeros(2, 2, 2))[:-1], r"has 23 bytes; 24 are allowed for shape \(2, 2, 2\)"),
        (encode(torch.zeros(2, 2, 2)) + b"x", "has 25 bytes; 24 are allowed"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [gzip.compress(bytes(1000), mtime=0)[:-12], b"not gzip"])
def test_damaged_gzip_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"images.gz is not a whole gzip file .*fetch it again"):
        read_idx(path, 3)


def test_splits_come_from_their_own_files(tmp_path: Path) -> None:
    train, test = write_set(tmp_path, 12), write_set(tmp_path, 11, "t10k")
    loaded = load_fashion_mnist("train", tmp_path)
    assert torch.equal(loaded.images, train.unsqueeze(1))
    assert loaded.labels.tolist() == [*range(10), 0, 1]
    assert torch.equal(load_fashion_mnist("test", tmp_path).images, test.unsqueeze(1))


def test_folders_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path / "shared"))
    for num, place in enumerate((tmp_path / "data" / "fashion-mnist", tmp_path / "shared" / "fashion-mnist"), start=10):
        write_set(place, num)
        assert len(load_fashion_mnist("train")) == num


def test_a_folder_that_is_asked_for_is_the_only_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    write_set(tmp_path / "fashion-mnist", 10)
    with pytest.raises(ValueError, match="is not in any of"):
        load_fashion_mnist("train", tmp_path / "mine")
    write_set(tmp_path / "mine", 11)
    assert len(load_fashion_mnist("train", tmp_path / "mine")) == 11


def test_absent_files_say_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneblock.data.idx.fashion_folders", lambda root: [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is not in any of .*run `make data`") as caught:
        load_fashion_mnist("train")
    assert str(tmp_path / "b") in str(caught.value)


def test_unset_folder_is_not_looked_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEBLOCK_DATA", raising=False)
    assert fashion_folders(None)[0] == Path("data/fashion-mnist")


def test_counts_must_agree(tmp_path: Path) -> None:
    write_set(tmp_path, 12, num_labels=11)
    with pytest.raises(ValueError, match=r"holds 12 images and .* 11 labels; equal numbers"):
        load_fashion_mnist("train", tmp_path)
