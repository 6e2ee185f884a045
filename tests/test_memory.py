import pytest
import torch
from tiny import IMAGES
from torch import nn

from oneblock.memory import DryRun, peak_bytes
from oneblock.presets import ImageRecipe, image_plan, training_peak

pytest.importorskip("torch.distributed._tools.mem_tracker")


def plan(blocks: int, batch_size: int = 16):  # type: ignore[no-untyped-def]
    return image_plan(
        ImageRecipe(
            data="none",
            fingerprint="none",
            image_shape=(1, 28, 28),
            num_classes=10,
            size="nano",
            blocks=blocks,
            batch_size=batch_size,
        )
    )


def linear_step() -> DryRun:
    model = nn.Linear(64, 32, bias=False)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    x = torch.zeros(16, 64)

    def step() -> None:
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return DryRun(model, optimizer, (x,), step)


def test_a_linear_layer_by_hand() -> None:
    found = peak_bytes(linear_step)
    weights = 64 * 32 * 4
    assert found.by_kind["Parameter"] == weights
    assert found.by_kind["Optstate"] == 2 * weights + 4  # two moments and the step
    assert found.total == sum(found.by_kind.values())
    # the peak stands at the end of the backward pass: weights, gradients, two moments, the step, the input, two scalars
    assert found.total == 4 * weights + 4 + 16 * 64 * 4 + 8


def test_counts_repeat_themselves_byte_for_byte() -> None:
    assert training_peak(plan(3)) == training_peak(plan(3))


def test_own_block_needs_a_share_of_the_whole() -> None:
    whole, third = training_peak(plan(1)).total, training_peak(plan(3)).total
    assert third < 0.45 * whole
    assert training_peak(plan(1), checkpointing=True).total < 0.7 * whole
    assert training_peak(plan(3), checkpointing=True).total < third
    assert training_peak(plan(3, batch_size=32)).total > third


def test_nothing_real_is_left_behind() -> None:
    training_peak(plan(3))
    assert type(torch.zeros(1)) is torch.Tensor
    assert IMAGES.images.device.type == "cpu"
