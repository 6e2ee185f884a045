"""Train the two small classifiers whose hidden layer the image metrics use, and write their weights.

    python benchmarks/train_features.py digits
    python benchmarks/train_features.py fashion-mnist --fashion-mnist DIR    # DIR holds the four idx.gz files

Runs once, single-threaded and seeded; the weights it writes belong to the package. Digits need scikit-learn.
"""

from __future__ import annotations

import argparse
import gzip
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from oneblock.metrics.features import CLASSIFIER_SHAPES, SmallClassifier, scale_pixels, weights_path


@dataclass(frozen=True)
class Images:
    """Training and test images uint8 (n, 1, s, s) with labels int64 (n,)."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How long and with which augmentation one classifier is trained."""

    epochs: int
    max_shift: int
    flip: bool
    batch_size: int
    peak_rate: float = 3e-3


RECIPES: dict[str, Recipe] = {
    "digits": Recipe(epochs=60, max_shift=1, flip=False, batch_size=64),
    "fashion-mnist": Recipe(epochs=6, max_shift=1, flip=True, batch_size=128),
}


def load_digits_images() -> Images:
    """The 1797 digits of scikit-learn, 0..16 stretched to 0..255; 1500 train and 297 test images."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (torch.from_numpy(digits.images)[:, None] * (255 / 16)).round().to(torch.uint8)
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1500], order[1500:]
    return Images(images[train], labels[train], images[test], labels[test])


def read_idx(path: Path, offset: int) -> Tensor:
    """Bytes of a gzipped idx file after its header of `offset` bytes, uint8 (n,)."""
    return torch.frombuffer(bytearray(gzip.decompress(path.read_bytes())[offset:]), dtype=torch.uint8)


def load_fashion_images(folder: Path) -> Images:
    """Fashion-MNIST from its four idx.gz files: 60,000 train and 10,000 test images."""
    parts: list[Tensor] = []
    for stem in ("train", "t10k"):
        parts.append(read_idx(folder / f"{stem}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28))
        parts.append(read_idx(folder / f"{stem}-labels-idx1-ubyte.gz", 8).long())
    return Images(*parts)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `max_shift` pixels over zeros and mirror half of them if `flip`."""
    count, _, height, width = images.shape
    shift = torch.randint(0, 2 * recipe.max_shift + 1, (2, count, 1), generator=generator)
    padded = F.pad(images, (recipe.max_shift,) * 4)
    columns = torch.arange(width).expand(count, width)
    if recipe.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    rows = (torch.arange(height) + shift[0])[:, :, None]
    sample = torch.arange(count)[:, None, None]
    return padded[sample, 0, rows, (columns + shift[1])[:, None, :]][:, None]


def train(data: Images, recipe: Recipe, network: SmallClassifier, generator: torch.Generator) -> None:
    """AdamW on a one-cycle schedule with label smoothing, printing one line an epoch."""
    steps = -(-len(data.train) // recipe.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.peak_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_rate, recipe.epochs * steps)
    for epoch in range(recipe.epochs):
        network.train()
        total = 0.0
        order = torch.randperm(len(data.train), generator=generator)
        for chosen in torch.split(order, recipe.batch_size):
            logits = network(scale_pixels(augment(data.train[chosen], recipe, generator)))
            loss = F.cross_entropy(logits, data.train_labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1} of {recipe.epochs}: loss {total / steps:.4f}", flush=True)


@torch.no_grad()
def test_accuracy(network: SmallClassifier, data: Images) -> float:
    """Share of test images classified rightly."""
    network.eval()
    seen = torch.cat([network(scale_pixels(batch)).argmax(1) for batch in torch.split(data.test, 500)])
    return (seen == data.test_labels).double().mean().item()


def stored(value: Tensor) -> Tensor:
    """A tensor as the file holds it: float16, or itself if it is a counter."""
    return value.half().contiguous() if value.is_floating_point() else value


def main() -> None:
    """Train the classifier named on the command line and write its weights into the package."""
    parser = argparse.ArgumentParser(description="Train a small classifier and write its weights.")
    parser.add_argument("data", choices=sorted(RECIPES))
    parser.add_argument("--fashion-mnist", type=Path, help="folder of the four idx.gz files")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.data == "fashion-mnist" and arguments.fashion_mnist is None:
        parser.error("fashion-mnist needs --fashion-mnist DIR")
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    name = f"{arguments.data}-cnn"
    digits = arguments.data == "digits"
    data = load_digits_images() if digits else load_fashion_images(arguments.fashion_mnist)
    network = SmallClassifier(CLASSIFIER_SHAPES[name])
    # on a CPU this memory format halves the time of a step
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(data, RECIPES[arguments.data], network, torch.Generator().manual_seed(arguments.seed))
    network.half().float()  # the file holds float16, so the accuracy is measured on what the file holds
    accuracy = test_accuracy(network, data)
    tensors = {key: stored(value) for key, value in network.state_dict().items()}
    metadata = {"accuracy": f"{accuracy:.4f}", "data": arguments.data, "test_images": str(len(data.test))}
    weights_path(name).parent.mkdir(exist_ok=True)
    save_file(tensors, weights_path(name), metadata=metadata)
    print(f"{name}: test accuracy {accuracy:.4f}, {weights_path(name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
