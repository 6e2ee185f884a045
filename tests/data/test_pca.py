"""Principal components of patches: fitted exactly, orthonormal, and back again on their span."""

import pytest
import torch
from torch import Tensor

from oneblock.data import synthetic_images, to_float
from oneblock.data.pca import STD, PatchPCA, fit_pca, pca_from_values

IMAGES = synthetic_images(64, 8, 3, 3, seed=0).images


def patches(images: Tensor, p: int) -> Tensor:
    """All patches (m, c p p), float64 in [-1, 1], cut by hand."""
    found = []
    for top in range(0, images.shape[2], p):
        for left in range(0, images.shape[3], p):
            found.append((images[:, :, top : top + p, left : left + p].double() / 127.5 - 1).flatten(1))
    return torch.cat(found)


@pytest.mark.parametrize(("components", "patch"), [(12, 2), (5, 2), (1, 4), (48, 4)])
def test_components_are_orthonormal_and_explain_the_most(components: int, patch: int) -> None:
    codec = fit_pca(IMAGES, components, patch)
    rows = codec.rows.double()
    torch.testing.assert_close(rows @ rows.mT, torch.eye(components, dtype=torch.float64), rtol=0, atol=1e-6)
    known = patches(IMAGES, patch)
    torch.testing.assert_close(codec.mean.double(), known.mean(0), rtol=0, atol=1e-6)
    kept = ((known - known.mean(0)) @ rows.mT).square().sum() / len(known)
    best = torch.linalg.svdvals(known - known.mean(0))[:components].square().sum() / len(known)
    torch.testing.assert_close(kept, best, rtol=1e-6, atol=0)
    assert bool((rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all())


def test_components_have_the_deviation_that_preconditioning_expects() -> None:
    encoded = fit_pca(IMAGES, 5, 2).encode(to_float(IMAGES))
    assert encoded.shape == (64, 5, 4, 4)
    assert encoded.square().mean().sqrt().item() == pytest.approx(STD, rel=1e-5)
    spread = encoded.square().mean((0, 2, 3))
    assert bool((spread[:-1] >= spread[1:]).all())


def test_all_components_give_the_image_back_and_fewer_what_lies_in_their_span() -> None:
    whole, images = fit_pca(IMAGES, 12, 2), to_float(IMAGES)
    torch.testing.assert_close(whole.decode(whole.encode(images)), images, rtol=0, atol=1e-5)
    part = fit_pca(IMAGES, 4, 2)
    inside = part.decode(part.encode(images))
    assert (inside - images).abs().max() > 0.05
    torch.testing.assert_close(part.decode(part.encode(inside)), inside, rtol=0, atol=1e-5)
    torch.testing.assert_close(part.encode(inside), part.encode(images), rtol=0, atol=1e-5)


def test_a_patch_becomes_the_cell_at_its_place() -> None:
    codec, images = fit_pca(IMAGES, 5, 2), to_float(IMAGES[:2])
    moved = images.clone()
    moved[:, 1, 5, 2] += 0.5  # cell: row 2, column 1
    changed = (codec.encode(moved) - codec.encode(images)).abs().amax((0, 1)) > 1e-5
    assert changed.nonzero().tolist() == [[2, 1]]
    by_hand = (images[0, :, 4:6, 2:4].flatten() - codec.mean) @ codec.rows.mT * codec.scale
    torch.testing.assert_close(codec.encode(images)[0, :, 2, 1], by_hand)


def test_the_order_of_images_changes_no_digit_and_neither_does_the_way_through_values() -> None:
    codec = fit_pca(IMAGES, 5, 2)
    assert fit_pca(IMAGES.flip(0), 5, 2).values() == codec.values()
    again = pca_from_values(5, 2, codec.values())
    assert (again.fingerprint(), again.channels, again.components) == (codec.fingerprint(), 3, 5)
    assert again.encode(to_float(IMAGES)).equal(codec.encode(to_float(IMAGES)))
    assert fit_pca(IMAGES, 4, 2).fingerprint() != codec.fingerprint()


def test_shapes_go_there_and_back() -> None:
    codec = fit_pca(IMAGES, 5, 2)
    assert codec.encoded_shape((3, 8, 6)) == (5, 4, 3) and codec.decoded_shape((5, 4, 3)) == (3, 8, 6)


def test_images_that_are_all_alike_have_a_codec() -> None:
    codec = fit_pca(torch.full((4, 1, 4, 4), 255, dtype=torch.uint8), 2, 2)
    assert isinstance(codec, PatchPCA) and codec.scale == 1.0
    assert codec.decode(codec.encode(torch.ones(1, 1, 4, 4))).equal(torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("components", "patch", "message"),
    [
        (13, 2, "patches of 2 x 2 pixels with 3 channels have 12 values; use 1 to 12 components"),
        (0, 2, "use 1 to 12 components"),
        (1, 3, r"patch=3 does not divide samples of shape \(3, 8, 8\); use a divisor of their sides"),
    ],
)
def test_what_images_do_not_have_is_refused(components: int, patch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_pca(IMAGES, components, patch)


def test_values_that_are_no_codec_are_refused() -> None:
    values = fit_pca(IMAGES, 5, 2).values()
    for wrong in (values[:-2], (*values[:-1], 0.0), ()):
        with pytest.raises(ValueError, match="values are not those of 5 components of patches of 2 x 2 pixels"):
            pca_from_values(5, 2, wrong)
