"""What an image generator denoises: pixels, or the components of patches that a codec was fitted to.

A fitted codec is plain numbers in the plan, so that jobs and models need no other file. It belongs to the task: sources
of data, whatever changes images at random, and scores of generated images know pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from oneblock.data import Codec, Pixels
from oneblock.data.pca import PatchPCA, check_components, pca_from_values
from oneblock.plan import Plain, Plan

Fit = Callable[[int, int], PatchPCA]
"""Fits a codec: so many components of patches of so many pixels along a side."""
PIXELS = "pixels"


def num_components(codec: str, size: int = 100) -> int:
    """Components of ``"pca:K"``, or of ``"pca:P%"`` for patches of ``size`` values, rounded up; 0 of ``"pixels"``.

    Raises:
        ValueError: another codec.
    """
    name, _, number = codec.partition(":")
    if codec == PIXELS:
        return 0
    digits = number.removesuffix("%")
    if name != "pca" or not (digits.isascii() and digits.isdecimal()) or not int(digits):
        raise ValueError(
            f"codec={codec!r} is unknown; use pixels, pca:K with K components for each patch, or pca:P% with a share "
            "of its values, as pca:4 or pca:50%"
        )
    return -(-int(digits) * size // 100) if number.endswith("%") else int(digits)


def fitted_codec(codec: str, shape: Sequence[int], patch: int, fit: Fit | None) -> PatchPCA | None:
    """The codec of a recipe for images of ``shape`` (c, h, w); None of pixels. Without a ``fit`` its numbers are any
    that are allowed, for counting alone."""
    size = shape[0] * patch**2
    components = num_components(codec, size)
    if not components:
        return None
    check_components(shape, components, patch)
    if fit is not None:
        return fit(components, patch)
    unit = [float(i == j) for i in range(components) for j in range(size)]
    return pca_from_values(components, patch, [*[0.0] * size, *unit, 1.0])


def codec_settings(codec: PatchPCA | None) -> dict[str, Plain]:
    """What a plan says of its codec; nothing of pixels."""
    if codec is None:
        return {}
    return {"codec": f"pca:{codec.components}", "codec_patch": codec.patch, "codec_values": list(codec.values())}


def fitted_in(plan: Plan) -> PatchPCA | None:
    """The codec that a plan holds; None of pixels."""
    recipe = plan.recipe
    if "codec" not in recipe:
        return None
    components, values = num_components(cast(str, recipe["codec"])), cast(list[float], recipe.get("codec_values", []))
    return pca_from_values(components, cast(int, recipe.get("codec_patch", 1)), values) if components else None


def plan_codec(plan: Plan) -> Codec:
    """The codec that a plan holds, else that of pixels."""
    return fitted_in(plan) or Pixels()
