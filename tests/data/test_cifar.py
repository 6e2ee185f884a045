from pathlib import Path

import pytest

from oneblock.data.cifar import CIFAR10, CIFAR100, load_cifar


def record(labels: list[int], red: int) -> bytes:
    """A picture of plain planes: red `red`, green 2, blue 3, with its first pixel (9, 2, 3)."""
    return bytes([*labels, 9]) + bytes([red]) * 1023 + bytes([2]) * 1024 + bytes([3]) * 1024


def write_cifar10(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(record([number], 10 * number) + record([0], 0))
    (folder / "test_batch.bin").write_bytes(record([9], 99))


def test_cifar10_planes_and_batches(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    train, test = (load_cifar(CIFAR10, tmp_path, split) for split in ("train", "test"))
    assert train.labels.tolist() == [1, 0, 2, 0, 3, 0, 4, 0, 5, 0]
    assert train.images[::2, 0, 5, 5].tolist() == [10, 20, 30, 40, 50]
    assert train.images[0, :, 0, 0].tolist() == [9, 2, 3]
    assert train.images[0, :, 31, 31].tolist() == [10, 2, 3]
    assert (test.labels.tolist(), test.num_classes) == ([9], 10)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-binary").mkdir()
    for name, label in (("train.bin", 77), ("test.bin", 99)):
        (tmp_path / "cifar-100-binary" / name).write_bytes(record([3, label], 1))
    names = "\n".join(f"n{i}" for i in range(100)) + "\n"
    (tmp_path / "cifar-100-binary" / "fine_label_names.txt").write_text(names)
    loaded = load_cifar(CIFAR100, tmp_path, "train")
    assert loaded.labels.tolist() == [77]
    assert loaded.classes[77] == "n77"
    assert loaded.images[0, :, 0, 0].tolist() == [9, 2, 3]


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data_batch_1.bin does not exist; cifar10:DIR needs data_batch_1.bin"):
        load_cifar(CIFAR10, tmp_path, "train")
    write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(record([9], 99)[:-1])
    with pytest.raises(ValueError, match="has 3072 bytes; a multiple of 3073 is allowed for cifar10"):
        load_cifar(CIFAR10, tmp_path, "test")
    (tmp_path / "test_batch.bin").write_bytes(record([10], 99))
    with pytest.raises(ValueError, match=r"labels lie in 10\.\.10; 0\.\.9"):
        load_cifar(CIFAR10, tmp_path, "test")
    (tmp_path / "batches.meta.txt").write_text("cat\ndog\n")
    with pytest.raises(ValueError, match=r"batches.meta.txt names 2 classes; 10 are allowed"):
        load_cifar(CIFAR10, tmp_path, "train")
