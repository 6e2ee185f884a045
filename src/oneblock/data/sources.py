"""Images by name: one line of text says which data, whatever its format.

    digits             scikit-learn's handwritten digits, 8 x 8
    fashion-mnist      28 x 28 grey, fetched once by ``make data``
    folder:DIR         a folder of class folders, or of images alone
    cifar10:DIR        the binary batch files of CIFAR-10 (cifar100:DIR of CIFAR-100)
    tiny-imagenet:DIR  the unpacked folder of Tiny ImageNet, 64 x 64
    captions:DIR       a folder of images with captions: metadata.jsonl, or a text beside each image
    scenes             drawn pictures with captions (``scenes,images=400``: so many)
    hf:NAME            streamed by the ``datasets`` library

Where a stream has several columns that fit, ``hf:NAME,image=COLUMN,label=COLUMN`` chooses; ``hf:NAME,caption=COLUMN``
takes texts in the place of labels.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .captions import load_captions
from .cifar import CIFAR10, CIFAR100, load_cifar
from .digits import load_digits
from .folder import load_folder
from .hub import HubSource
from .idx import load_fashion_mnist
from .imageset import ImageSet, Split, check_channels, check_size, check_split, pad_to, with_channels
from .memory import MemorySource, Source
from .reading import READING, Reading
from .scenes import NAME as SCENES
from .scenes import load_scenes
from .tiny_imagenet import load_tiny_imagenet

__all__ = ["SPECS", "ImageSet", "MemorySource", "Source", "load_images", "open_source"]

SPECS = (
    *("digits", "fashion-mnist", "folder:DIR", "cifar10:DIR", "cifar100:DIR", "tiny-imagenet:DIR", "captions:DIR"),
    *(SCENES, "hf:NAME"),
)


def load_images(
    spec: str,
    split: Split = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    root: Path | None = None,
    reading: Reading = READING,
) -> ImageSet:
    """One split of a named data set, in memory.

    Args:
        spec: one of ``SPECS``, with DIR or NAME filled in.
        split: ``train`` or ``test``.
        size: side of the square images. Sets of a fixed size are centred on black to reach it; folders and
            streams are resized. None keeps the fixed size, and is 32 for the others.
        channels: 1 or 3; None keeps what the images are.
        root: where fashion-mnist is looked for, and what a relative DIR starts from.
        reading: how files of images are read, and whether they are kept decoded.

    Raises:
        ValueError: unknown spec or split, a size below the images', or data that is absent or damaged.
        MissingExtraError: the format needs a package that is not installed.
    """
    check_split(split)
    check_size(size)
    check_channels(channels)
    kind, place = _parse(spec)
    if kind == "folder":
        return load_folder(_below(root, place), split, size, channels, reading)
    if kind == "captions":
        return load_captions(_below(root, place), split, size, channels, reading)
    if kind == "hf":
        return _open_hub(place, split, size, channels).first()
    if kind == SCENES:
        scenes = load_scenes(spec, split, size)
        return replace(scenes, images=with_channels(scenes.images, channels))
    images = _load_fixed(kind, place, split, root, reading)
    return replace(images, images=with_channels(pad_to(images.images, size, kind), channels))


def open_source(
    spec: str,
    split: Split = "train",
    *,
    size: int | None = None,
    channels: int | None = None,
    root: Path | None = None,
    reading: Reading = READING,
) -> Source:
    """Batches of a named data set: streamed for ``hf:NAME``, from memory for all others; arguments of
    ``load_images``."""
    kind, place = _parse(spec)
    if kind != "hf":
        return MemorySource(load_images(spec, split, size=size, channels=channels, root=root, reading=reading))
    check_split(split)
    return _open_hub(place, split, size, channels)


def _parse(spec: str) -> tuple[str, str]:
    kind, colon, place = spec.partition(":")
    if kind.partition(",")[0] == SCENES and not colon:
        return SCENES, ""
    takes_place = {known.partition(":")[0]: ":" in known for known in SPECS}
    if takes_place.get(kind) != bool(colon) or (colon and not place):
        raise ValueError(
            f"data={spec!r} is unknown; {', '.join(SPECS)} are allowed; for images of your own use folder:DIR"
        )
    return kind, place


def _below(root: Path | None, place: str) -> Path:
    path = Path(place).expanduser()
    return path if root is None else root / path


def _load_fixed(kind: str, place: str, split: Split, root: Path | None, reading: Reading) -> ImageSet:
    if kind == "digits":
        return load_digits(split)
    if kind == "fashion-mnist":
        return load_fashion_mnist(split, root)
    if kind == "tiny-imagenet":
        return load_tiny_imagenet(_below(root, place), split, reading)
    return load_cifar(CIFAR10 if kind == "cifar10" else CIFAR100, _below(root, place), split)


def _open_hub(place: str, split: Split, size: int | None, channels: int | None) -> HubSource:
    name, *settings = place.split(",")
    columns = dict(setting.partition("=")[::2] for setting in settings)
    if unknown := set(columns) - {"image", "label", "caption"}:
        raise ValueError(
            f"data='hf:{place}' sets {', '.join(sorted(unknown))}; image, label and caption are allowed; "
            "write hf:NAME,image=COLUMN,label=COLUMN or hf:NAME,caption=COLUMN"
        )
    return HubSource(
        name,
        split,
        size=size,
        channels=channels,
        image_column=columns.get("image"),
        label_column=columns.get("label"),
        caption_column=columns.get("caption"),
    )
