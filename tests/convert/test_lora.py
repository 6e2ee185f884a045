"""Experts by low-rank adapters: the network's own weights frozen and held once, files of the adapters alone, and the
same answers through peft."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

from convert.networks import network
from convert.test_converted import FEW, QUIET, asked, converted, recipe_and_data
from convert.test_picks import answer, dit
from peft import PeftModel

import oneblock as ob
from oneblock.backbone import forward
from oneblock.convert.lora import LowRank, adapters_of, write_adapter
from oneblock.presets.base import ImageFacts
from oneblock.presets.cost import job_peaks
from oneblock.presets.counted import counted_plan
from oneblock.train.checkpoint import checkpoints

TARGETS = {
    "GPT-2": ("attn.c_attn", "mlp.c_proj"),
    "ModernBERT": ("Wqkv",),
    "DeiT": ("attention.q_proj",),
    "DiT": ("to_q", "to_out.0"),
    "Flux": ("to_q", "to_v"),
}
IMAGES = ImageFacts(shape=(1, 8, 8), num_classes=10)


def experts(name: str, blocks: int = 2, **settings: Any) -> tuple[nn.Module, LowRank]:
    made, builder = converted(name)
    found = ob.lora(builder, targets=TARGETS[name], **{"rank": 4, **settings})
    return made, found.pick(found.picks * blocks)


def moved(block: Any, maps: bool = True) -> nn.Module:
    """The block after some training, which moves its new maps too or leaves them zero."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in block.named_parameters():
            if p.requires_grad and (maps or "lora_" in name):
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    found: nn.Module = block
    return found


@pytest.mark.parametrize("name", FEW)
def test_an_expert_begins_as_the_network_and_trains_beside_it(name: str) -> None:
    made, builder = experts(name)
    z, noise, condition, original = asked(made)
    block = builder(range(6, 12)).eval()
    with torch.no_grad():
        assert forward(block, z, noise, condition).equal(original()), "B is zero"
    trained = {key for key, p in block.named_parameters() if p.requires_grad}
    new = {key for key in trained if key.startswith(("noise.", "noisy.")) or ".modulation." in key}
    adapters = trained - new
    assert len(adapters) == 2 * 6 * len(TARGETS[name])
    assert all(".lora_A." in key or ".lora_B." in key for key in adapters)
    assert bool(new) == (name not in ("DiT", "Flux")), "a network that is told nothing of noise learns to be told"
    forward(moved(block).train(), z, noise, condition).square().mean().backward()
    assert all(p.grad is not None for p in block.parameters() if p.requires_grad)
    assert all(p.grad is None for p in (*made.parameters(), *(p for p in block.parameters() if not p.requires_grad)))
    assert all(p.requires_grad for p in made.parameters()), "the network stays as it is"
    weights = {p.data_ptr() for p in made.parameters()}
    assert {p.data_ptr() for p in block.parameters() if not p.requires_grad} <= weights, "and is held once"


@pytest.mark.parametrize("name", FEW)
@torch.no_grad()
def test_peft_loads_the_adapters_of_a_band(name: str, tmp_path: Path) -> None:
    _, builder = experts(name, alpha=6.0)
    block = moved(builder(range(6)), maps=False).eval()
    write_adapter(block, tmp_path)
    base = network(name)
    z, noise, condition, original = asked(base)
    before = original()
    loaded = PeftModel.from_pretrained(base, tmp_path)  # into ``base`` itself
    expert = forward(block, z, noise, condition)
    assert expert.equal(original())
    assert not expert.equal(before)
    config = loaded.peft_config["default"]
    assert (config.r, config.lora_alpha, config.inference_mode) == (4, 6.0, True)


@torch.no_grad()
def test_diffusers_loads_the_adapters_of_a_band(tmp_path: Path) -> None:
    """Networks that it adapts itself, at the same scale."""
    _, builder = experts("Flux", alpha=6.0)
    block = moved(builder(range(6)), maps=False).eval()
    write_adapter(block, tmp_path)
    base: Any = network("Flux")
    z, noise, condition, original = asked(base)
    before = original()
    base.load_lora_adapter(tmp_path, prefix="base_model.model", weight_name="adapter_model.safetensors")
    expert = forward(block, z, noise, condition)
    assert expert.equal(original())
    assert not expert.equal(before)


def test_a_run_of_adapters(tmp_path: Path) -> None:
    """Its files hold them alone; it goes on to the byte; it is opened, saved, checked and handed to peft."""
    _, builder = experts("DiT")
    recipe, data = recipe_and_data(builder.original, tmp_path, blocks=2, budget=16 * 12 * 6)

    def train(backbone: LowRank, out: str) -> dict[str, bytes]:
        machine = ob.Machine(save_every=4, keep=9, threads=1)
        ob.train(ob.experts(recipe), backbone=backbone, data=data, out=tmp_path / out, watch=QUIET, machine=machine)
        return {str(b): checkpoints(tmp_path / out / f"block-{b}")[-1].read_bytes() for b in (0, 1)}

    whole = train(builder, "run")
    adapters = sum(p.numel() for p in builder(range(6)).parameters() if p.requires_grad)
    assert adapters == 6 * 2 * 4 * (32 + 32)
    assert 16 * adapters < len(whole["0"]) < 16 * adapters + 2**15, "weights, averages and two moments"
    for path in (tmp_path / "run").glob("block-*/step-000000006.safetensors"):
        path.unlink()
    assert train(experts("DiT")[1], "run") == whole
    assert ob.fsck(tmp_path / "run", builder).good
    model = ob.Model.open(tmp_path / "run", backbone=builder)
    first, second = (model.denoiser.block(b).backbone for b in (0, 1))
    a, b = (adapters_of(block) for block in (first, second))
    assert a.keys() == b.keys() and not any(a[key].equal(b[key]) for key in a)
    assert first.ends.proj_out_1.weight.data_ptr() == second.ends.proj_out_1.weight.data_ptr()
    model.save(tmp_path / "model")
    again = ob.Model.open(tmp_path / "model", backbone=builder).denoiser.block(1).backbone
    assert all(t.equal(b[key]) for key, t in adapters_of(again).items())
    for block in (first, second):
        write_adapter(block, tmp_path / "adapter")
        base = network("DiT")
        z, noise, condition, original = asked(base)
        PeftModel.from_pretrained(base, tmp_path / "adapter")
        with torch.no_grad():
            assert forward(block.eval(), z, noise, condition).equal(original())
    with pytest.raises(ValueError, match=r"the plan was made for backbone .*LoRA of rank 4 and alpha 4 on to_q to_out"):
        ob.Model.open(tmp_path / "run", backbone=experts("DiT", rank=2)[1])


@pytest.mark.parametrize("name", ["DiT", "GPT-2"])
def test_frozen_weights_need_neither_gradients_nor_moments(name: str, tmp_path: Path) -> None:
    _, every = experts(name)
    _, full = converted(name)
    low_rank, kinds = every.pick((0, 1) * 2), []
    for builder in (low_rank, full.pick((0, 1) * 2)):
        recipe, _ = recipe_and_data(full.original, tmp_path, blocks=2, layers=(2, 2), depth=4)
        plan = counted_plan(recipe, IMAGES, builder)
        found = job_peaks(plan, backbone=builder)
        assert found == job_peaks(plan, backbone=builder, real=True)
        kinds.append(found["block-0"])
    adapters, whole = kinds
    trained = sum(p.numel() for p in low_rank(range(2)).parameters() if p.requires_grad)
    assert 8 * trained <= adapters.by_kind["Optstate"] <= 8 * trained + 2**9
    assert adapters.by_kind["Optstate"] < 0.4 * whole.by_kind["Optstate"]
    assert adapters.total < 0.9 * whole.total


def test_a_backbone_of_ones_own_gets_adapters_too() -> None:
    made = dit()
    builder = ob.lora(ob.convert(made), targets=["qkv"], rank=2)
    block = builder(range(1, 3))
    assert answer(block).equal(answer(ob.convert(dit())(range(1, 3))))
    assert not answer(moved(block)).equal(answer(ob.convert(dit())(range(1, 3))))
    assert sorted(adapters_of(block)) == sorted(
        f"base_model.model.layers.{i}.qkv.lora_{kind}.weight" for i in (1, 2) for kind in "AB"
    )


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("DiT", {"targets": ["to_q", "query"]}, r"targets=\['query'\] are not linear layers of DiT.* attn1.to_q, "),
        ("DiT", {"targets": []}, r"targets=\[\] are not linear layers"),
        ("GPT-2", {"targets": ["_attn"]}, r"targets=\['_attn'\] are not .* use some of attn.c_attn, attn.c_proj"),
        ("DiT", {"targets": ["to_q"], "rank": 0}, "rank=0"),
        ("DiT", {"targets": ["to_q"], "alpha": 0.0}, "alpha=0.0"),
    ],
)
def test_what_cannot_be_adapted_is_refused(name: str, words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ob.lora(converted(name)[1], **words)


def test_blocks_that_would_not_agree_are_refused(tmp_path: Path) -> None:
    _, builder = converted("DiT")
    low_rank = ob.lora(builder, targets="to_q")
    with pytest.raises(ValueError, match="stands in two places of a block"):
        low_rank.pick((0, 0))(range(2))
    recipe, data = recipe_and_data(builder.original, tmp_path, blocks=2, branch=0.5)
    with pytest.raises(ValueError, match=r"branch=0.5 hands trained weights .* \(layers.0.*of blocks 0 and 1\)"):
        ob.train(recipe, backbone=low_rank, data=data, out=tmp_path / "run", watch=QUIET)
    with pytest.raises(ValueError, match="this ConvertedBackbone has no adapters"):
        write_adapter(builder(range(2)), tmp_path)
