"""Random changes of training images that keep their label: mirror, shift, RandAugment.

Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", section 3, arXiv
1909.13719. The operations are kornia's, with invert and solarize_add where the paper has the identity. So is the
meaning of a magnitude m: an operation over a range low to high gets low + (high - low) m / 30, posterize keeps high -
(high - low) m / 30 bits. Colour, contrast, brightness and sharpness therefore change nothing at m = 15, and take away
below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MissingExtraError
from .transforms import random_flip

BLACK = -1.0
Augment = Callable[[Tensor, torch.Generator], Tensor]
"""Images (n, c, h, w) to images of the same shape; all randomness is the generator's."""
# name and range of each operation as kornia's RandAugment takes them; it refuses the ends of 0..30
OPERATIONS = (
    ("auto_contrast", 0.0, 1.0),
    ("equalize", 0.0, 1.0),
    ("invert", 0.0, 1.0),
    ("rotate", -30.0, 30.0),
    ("posterize", 4.0, 8.0),
    ("solarize", 0.0, 1.0),
    ("solarize_add", 0.0, 0.43),
    ("contrast", 0.1, 1.9),
    ("brightness", 0.1, 1.9),
    ("sharpness", 0.1, 1.9),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("translate_x", -0.1, 0.1),
    ("translate_y", -0.1, 0.1),
)
COLOUR_OPERATIONS = (("color", 0.1, 1.9),)  # saturation, which grey images do not have
MAX_MAGNITUDE = 29


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Mirror, then shift, then RandAugment; each image draws its own.

    Attributes:
        flip: mirror left to right with probability 0.5.
        crop: pixels of black laid around an image, from which a window of its own size is cut; 0 for none, and
            less than its sides.
        operations: number of operations of RandAugment, 0 for none; an image gets none of them twice.
        magnitude: their strength, 1 to ``MAX_MAGNITUDE``.

    Raises:
        ValueError: a field is outside its range.
    """

    flip: bool = False
    crop: int = 0
    operations: int = 0
    magnitude: int = 9

    def __post_init__(self) -> None:
        if self.crop < 0:
            raise ValueError(f"crop={self.crop} is negative; 0 or more pixels are allowed; use 0 for no crop")
        if not 0 <= self.operations <= len(OPERATIONS):
            raise ValueError(
                f"operations={self.operations} is not possible; 0 to {len(OPERATIONS)} is allowed; use for example 2, "
                "or 0 for none"
            )
        if not 1 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(
                f"magnitude={self.magnitude} is not possible; 1 to {MAX_MAGNITUDE} is allowed; use for example 9, and "
                "operations=0 for no change"
            )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The images, changed; the same object where no field asks for a change.

        Args:
            images: float32 (n, c, h, w) in [-1, 1], c is 1 or 3.
            generator: on the CPU; everything random follows from it.

        Returns:
            Same shape, dtype and range.

        Raises:
            ValueError: ``images`` is none of the above, or not larger than ``crop``.
            MissingExtraError: ``operations`` is above 0 and kornia is not installed.
        """
        _check_images(images)
        if self.flip:
            images = random_flip(images, generator)
        if self.crop:
            images = random_crop(images, self.crop, generator)
        if self.operations:
            images = rand_augment(images, self.operations, self.magnitude, generator)
        return images


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.float32:
        raise ValueError(f"images has dtype {images.dtype}; only torch.float32 is allowed; use to_float first")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images has shape {tuple(images.shape)}; (n, 1 or 3, h, w) is allowed; augment images, not their encoding"
        )


def random_crop(images: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """A window of the size of each image, anywhere on the image with ``crop`` pixels of black around it.

    Args:
        images: (n, c, h, w), black is -1.
        crop: 0 or more, less than h and w; the (2 crop + 1)^2 windows of an image are equally likely.
        generator: source of the 2 n offsets.

    Returns:
        A new tensor of the same shape.

    Raises:
        ValueError: ``crop`` reaches the height or width, so that a window could miss the image.
    """
    count, _, height, width = images.shape
    largest = min(height, width) - 1
    if not 0 <= crop <= largest:
        raise ValueError(
            f"crop={crop} does not fit images of {height} x {width} pixels; 0 to {largest} is allowed; use for example "
            "an eighth of the side"
        )
    windows = F.pad(images, (crop,) * 4, value=BLACK).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(2 * crop + 1, (2, count), generator=generator, device=generator.device).to(images.device)
    return windows[torch.arange(count, device=images.device), :, top, left]


def rand_augment(images: Tensor, operations: int, magnitude: int, generator: torch.Generator) -> Tensor:
    """``operations`` different ones for each image, in random order; bare ground turns black.

    kornia's own module draws the same operations for a whole batch. Here it gets the images of one operation at a
    time, which costs a call for each operation in use, whatever the number of images: large batches are cheaper.
    kornia draws signs and thresholds from torch's global CPU generator, which is seeded for it and then put back; two
    threads must not do this at once.

    Args:
        images: float32 (n, c, h, w) in [-1, 1], c is 1 or 3.
        operations: 1 to the number of ``OPERATIONS``.
        magnitude: 1 to ``MAX_MAGNITUDE``.
        generator: on the CPU.

    Returns:
        A new tensor of the same shape and range.
    """
    candidates = _candidates(magnitude, images.shape[1])
    chosen = torch.rand(len(images), len(candidates), generator=generator, device=generator.device).argsort(1)[
        :, :operations
    ]
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    values = (images + 1) / 2
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the accelerators, which nobody puts back
        torch.default_generator.manual_seed(seed)
        for turn in chosen.unbind(1):
            for index in turn.unique().tolist():
                rows = (turn == index).nonzero().flatten().to(images.device)
                values[rows] = candidates[index](values[rows])
    return (2 * values - 1).clamp(-1, 1)


@cache
def _candidates(magnitude: int, channels: int) -> tuple[Callable[[Tensor], Tensor], ...]:
    """One module of kornia per operation, for images (n, channels, h, w) in [0, 1]."""
    try:
        from kornia.augmentation.auto import RandAugment
    except ImportError as error:
        raise MissingExtraError("kornia") from error
    table = OPERATIONS if channels == 1 else OPERATIONS + COLOUR_OPERATIONS
    return tuple(RandAugment(1, magnitude, policy=[[operation]]) for operation in table)
