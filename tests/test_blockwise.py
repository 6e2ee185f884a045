import gc
import weakref

import pytest
import torch
from tiny import IMAGES, tiny_plan
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds, Condition, told
from oneblock.models.dit import DiT, DiTConfig
from oneblock.partition import make_partition
from oneblock.precondition import Precondition
from oneblock.presets import blockwise, image_task


def shake(module: nn.Module, seed: int = 0) -> None:
    """Random weights everywhere: the zero initial gates would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))


def batch(n: int = 6) -> tuple[Tensor, Tensor, ClassIds]:
    generator = torch.Generator().manual_seed(1)
    sigma = torch.tensor([30.0, 2.0, 0.7, 0.3, 0.1, 0.01])[:n]
    return (
        torch.randn(n, 1, 8, 8, generator=generator) * (1 + sigma.view(-1, 1, 1, 1)),
        sigma,
        ClassIds(torch.arange(n) % 4),
    )


def saved_bytes(plan_blocks: int) -> int:
    """Bytes that the forward pass of block 0 keeps for the backward pass, weights not counted."""
    denoiser = blockwise(tiny_plan(blocks=plan_blocks)).denoiser(0)
    weights = {p.data_ptr() for p in denoiser.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = denoiser(*batch())
    assert out.requires_grad
    return sum(kept.values())


def test_a_block_builds_its_own_layers_and_no_others() -> None:
    blocks = blockwise(tiny_plan())
    names = [set(blocks.denoiser(b).layers) for b in (0, 1)]
    assert names == [{"0", "1"}, {"2", "3"}]
    assert [blocks.denoiser(b).num_layers for b in (0, 1)] == [2, 2]


def test_initial_weights_follow_from_seed_and_block_alone() -> None:
    blocks = blockwise(tiny_plan())
    first = blocks.denoiser(1).state_dict()
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = blockwise(tiny_plan()).denoiser(1).state_dict()
    assert torch.get_rng_state().equal(state)
    assert all(first[name].equal(again[name]) for name in first)
    other, seeded = blocks.denoiser(0).state_dict(), blockwise(tiny_plan(seed=1)).denoiser(1).state_dict()
    assert not first["backbone.stem.embed.weight"].equal(other["backbone.stem.embed.weight"])
    assert not first["backbone.stem.embed.weight"].equal(seeded["backbone.stem.embed.weight"])


def test_one_block_over_the_whole_range_is_the_ordinary_network() -> None:
    denoiser = blockwise(tiny_plan(blocks=1)).denoiser(0).double()
    shake(denoiser)
    config = DiTConfig(image_size=8, channels=1, num_classes=3, depth=4, width=16, heads=2, patch=4)
    network = DiT(config).double()
    network.load_state_dict(denoiser.backbone.state_dict())
    z, sigma, labels = batch()
    z, sigma = z.double(), sigma.double()
    s = sigma.view(-1, 1, 1, 1)
    naive = network(z / (s**2 + 0.25).sqrt(), sigma.log() / 4, labels)
    naive = 0.25 / (s**2 + 0.25) * z + s * 0.5 / (s**2 + 0.25).sqrt() * naive
    out = denoiser(z, sigma, labels)
    torch.testing.assert_close(out, naive)
    out.square().sum().backward()
    naive.square().sum().backward()
    for (name, ours), theirs in zip(denoiser.backbone.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_a_step_on_one_block_leaves_the_others_alone() -> None:
    plan = tiny_plan()
    denoisers = [blockwise(plan).denoiser(b) for b in (0, 1)]
    for b, denoiser in enumerate(denoisers):
        shake(denoiser, b)
    before = {name: p.clone() for name, p in denoisers[0].named_parameters()}
    task, images = image_task(plan), IMAGES.images[:4].float() / 127.5 - 1
    noised = task.noised(images, torch.full((4,), 0.1), 1, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(denoisers[1].parameters())
    task.loss(denoisers[1], noised, images, task.condition(IMAGES.labels[:4])).weighted.mean().backward()
    optimizer.step()
    assert all(p.grad is None and p.equal(before[name]) for name, p in denoisers[0].named_parameters())
    pointers = [{p.data_ptr() for p in denoiser.parameters()} for denoiser in denoisers]
    assert not pointers[0] & pointers[1]


def test_checkpointing_changes_memory_not_gradients() -> None:
    plain, thrifty = (blockwise(tiny_plan()).denoiser(1, checkpointing=c) for c in (False, True))
    for denoiser in (plain, thrifty):
        shake(denoiser)
        denoiser(*batch()).square().sum().backward()
    for ours, theirs in zip(plain.parameters(), thrifty.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_activations_fall_with_the_number_of_blocks() -> None:
    whole, half, quarter = saved_bytes(1), saved_bytes(2), saved_bytes(4)
    assert half < 0.65 * whole
    assert whole - half == pytest.approx(2 * (half - quarter), rel=0.01)  # two layers fewer, then one


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return torch.full_like(z, self.value) + told(condition, ClassIds).ids.view(-1, 1, 1, 1) * 100


def test_the_whole_range_asks_the_block_that_owns_each_level() -> None:
    partition = make_partition(tiny_plan().partition.law, 3)
    denoiser = Denoiser(partition, lambda b: Constant(float(b)))  # type: ignore[arg-type,return-value]
    sigma = torch.tensor([0.01, 80.0, partition.edges[1], partition.edges[2], 0.3])
    out = denoiser(torch.zeros(5, 1, 2, 2), sigma, ClassIds(torch.arange(5)))[:, 0, 0, 0]
    assert out.tolist() == [2.0, 100.0, 201.0, 302.0, 401.0]


@pytest.mark.parametrize(("resident", "loads", "alive"), [(1, 5, 1), (2, 4, 2), (None, 3, 3)])
def test_no_more_blocks_than_asked_for_are_in_memory(resident: int | None, loads: int, alive: int) -> None:
    made: list[weakref.ref[nn.Module]] = []

    def load(block: int) -> BlockDenoiser:
        gc.collect()
        living = sum(ref() is not None for ref in made)
        assert resident is None or living < resident, "the old block goes before the new one comes"
        module = Constant(float(block))
        made.append(weakref.ref(module))
        return module  # type: ignore[return-value]

    partition = make_partition(tiny_plan().partition.law, 3)
    denoiser = Denoiser(partition, load, resident)
    for block in (0, 1, 2, 1, 0):
        denoiser.block(block)
    gc.collect()
    assert len(made) == loads
    assert sum(ref() is not None for ref in made) == alive


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="resident=0 leaves no block to work with; use 1 or more"):
        Denoiser(tiny_plan().partition, blockwise(tiny_plan()).denoiser, resident=0)
    with pytest.raises(ValueError, match="block=2 does not exist"):
        blockwise(tiny_plan()).denoiser(2)
    z, _, labels = batch()
    with pytest.raises(ValueError, match=r"sigma has shape \(1,\); give one level per sample, \(6,\)"):
        blockwise(tiny_plan()).denoiser(0)(z, torch.ones(1), labels)


def test_precondition_of_the_plan_is_used() -> None:
    assert blockwise(tiny_plan(sigma_data=0.8)).denoiser(0).frame == Precondition(0.8)
