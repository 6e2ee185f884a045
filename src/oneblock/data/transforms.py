"""Pixels as bytes and pixels as numbers in [-1, 1]; the bytes of a tensor.

A byte v in 0..255 stands for x = v / 127.5 - 1, so black is -1 and white is +1.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

HALF_RANGE = 127.5


def to_float(images: Tensor) -> Tensor:
    """Bytes as numbers, x = v / 127.5 - 1.

    Args:
        images: uint8, any shape.

    Returns:
        float32 in [-1, 1], same shape.

    Raises:
        ValueError: ``images`` is not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images has dtype {images.dtype}; only torch.uint8 is allowed; use to_uint8 first")
    return images.to(torch.float32).div_(HALF_RANGE).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Numbers as bytes, rounded and clamped; undoes ``to_float`` exactly.

    Args:
        images: floating point, any shape; values outside [-1, 1] are clamped.

    Returns:
        uint8, same shape.

    Raises:
        ValueError: ``images`` is not floating point, or holds NaN.
    """
    if not images.is_floating_point():
        raise ValueError(
            f"images has dtype {images.dtype}; only floating point in [-1, 1] is allowed; bytes need no conversion"
        )
    if bool(images.isnan().any()):
        raise ValueError("images holds NaN; only numbers are allowed; look for the step that diverged")
    # half precision cannot tell neighbouring bytes apart during the sum
    scaled = (images.to(torch.float32) + 1.0) * HALF_RANGE
    return scaled.round().clamp(0, 255).to(torch.uint8)


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 0.5.

    Args:
        images: (n, c, h, w), any dtype.
        generator: source of the n coin tosses; may live on another device.

    Returns:
        A new tensor of the same shape, dtype and device.

    Raises:
        ValueError: ``images`` does not have four dimensions.
    """
    if images.ndim != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; (n, c, h, w) is allowed; add the missing axis")
    toss = torch.rand(images.shape[0], generator=generator, device=generator.device)
    flipped = (toss < 0.5).to(images.device)[:, None, None, None]
    return torch.where(flipped, images.flip(-1), images)


def bytes_in_place(tensor: Tensor) -> ctypes.Array[ctypes.c_ubyte]:
    """The bytes of a contiguous tensor on the CPU, not copied; valid as long as the tensor is. torch shows them only
    through numpy, which the base installation may lack."""
    return (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())
