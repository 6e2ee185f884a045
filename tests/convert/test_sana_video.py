"""Layers of diffusers' SANA-Video with our code: the same values and gradients, and they stream."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneblock.convert.sana_video import video_layer
from oneblock.models.video_layers import Memory, Modulation, VideoLayer
from oneblock.ops import relu_linear_attention, rope_3d

pytest.importorskip("diffusers")
from diffusers.models.transformers.transformer_sana_video import (
    SanaLinearAttnProcessor3_0,
    SanaVideoTransformer3DModel,
)

N, FRAMES, ROWS, COLUMNS, HEADS, E, TEXT = 2, 4, 2, 3, 2, 12, 5
D = HEADS * E


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(**changes: Any) -> SanaVideoTransformer3DModel:
    """The tiny configuration of diffusers' own test."""
    config = {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": HEADS,
        "attention_head_dim": E,
        "num_layers": 2,
        "num_cross_attention_heads": HEADS,
        "cross_attention_head_dim": E,
        "cross_attention_dim": D,
        "caption_channels": 16,
        "mlp_ratio": 2.5,
        "sample_size": 8,
        "patch_size": (1, 2, 2),
    }
    made = SanaVideoTransformer3DModel(**config | changes)
    with torch.no_grad():
        for seed, weights in enumerate(made.parameters()):
            weights.copy_(0.3 * drawn(*weights.shape, seed=seed))
    return made


class Ours(nn.Module):
    """A layer of ours in the place of a block."""

    def __init__(self, block: nn.Module, blocks: tuple[int, ...] = (FRAMES,)) -> None:
        super().__init__()
        self.layer = video_layer(block)
        self.blocks = blocks

    def forward(
        self, h: Tensor, mask: None, text: Tensor, text_bias: Tensor, times: Tensor, f: int, y: int, x: int, rope: Any
    ) -> Tensor:
        told = modulation(times.unflatten(-1, (6, -1)), text, text_bias[:, 0] == 0, range(f))
        out: Tensor = self.layer(h.unflatten(1, (f, y, x)), told._replace(blocks=self.blocks))
        return out.flatten(1, 3)


def modulation(shared: Tensor, text: Tensor, mask: Tensor, frames: range) -> Modulation:
    rope = rope_3d(torch.tensor(frames), ROWS, COLUMNS, E)
    return Modulation(torch.zeros(1, 1, D), shared, text, mask, rope, (len(frames),), False)


def inputs() -> dict[str, Tensor]:
    mask = torch.ones(N, TEXT)
    mask[1, 3:] = 0
    return {
        "hidden_states": drawn(N, 16, FRAMES, 2 * ROWS, 2 * COLUMNS, seed=100).requires_grad_(),
        "encoder_hidden_states": drawn(N, TEXT, 16, seed=101),
        "timestep": torch.tensor([20.0, 700.0]),
        "encoder_attention_mask": mask,
    }


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    """Up to 1e-5 of the largest of each."""
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, other.abs().max().item()))


def test_linear_attention_is_that_of_the_library() -> None:
    model, h = network(), drawn(N, FRAMES * ROWS * COLUMNS, D, seed=1).requires_grad_()
    attention: Any = model.transformer_blocks[0].attn1
    table = model.rope(torch.empty(1, 16, FRAMES, 2 * ROWS, 2 * COLUMNS))
    wanted = SanaLinearAttnProcessor3_0()(attention, h, rotary_emb=table)
    q, k, v = attention.norm_q(attention.to_q(h)), attention.norm_k(attention.to_k(h)), attention.to_v(h)
    heads = [x.unflatten(2, (HEADS, E)).transpose(1, 2) for x in (q, k, v)]
    rope = rope_3d(torch.arange(FRAMES), ROWS, COLUMNS, E)
    found = attention.to_out[0](relu_linear_attention(heads[0], heads[1], heads[2], rope)[0].transpose(1, 2).flatten(2))
    gradients = [torch.autograd.grad(out.square().sum(), h)[0] for out in (found, wanted)]
    assert_same([found, gradients[0]], [wanted, gradients[1]])


def test_a_network_with_our_layers_answers_as_before() -> None:
    theirs, ours, given = network(), network(), inputs()
    ours.transformer_blocks = nn.ModuleList(Ours(block) for block in ours.transformer_blocks)
    answers = [model(**given).sample for model in (ours, theirs)]
    gradients = [torch.autograd.grad(out.square().mean(), given["hidden_states"])[0] for out in answers]
    assert_same([answers[0], gradients[0]], [answers[1], gradients[1]])
    ours.transformer_blocks[1] = Ours(theirs.transformer_blocks[1], blocks=(2, 2))
    assert not torch.allclose(ours(**given).sample, answers[1], atol=1e-3)  # blocks of frames that see no later ones


def test_a_layer_streams() -> None:
    layer, h = video_layer(network().transformer_blocks[0]), drawn(N, FRAMES, ROWS, COLUMNS, D, seed=2)
    shared, text, mask = drawn(N, 1, 6, D, seed=3), drawn(N, TEXT, D, seed=4), torch.ones(N, TEXT, dtype=torch.bool)
    wanted = layer(h, modulation(shared, text, mask, range(FRAMES))._replace(blocks=(1, 3)))
    memory: Memory | None = None
    out = []
    for frames in (range(1), range(1, FRAMES)):
        answer, memory = layer.step(h[:, frames.start : frames.stop], modulation(shared, text, mask, frames), memory)
        out.append(answer)
    assert_same([torch.cat(out, dim=1)], [wanted])


def test_it_has_copies_of_the_weights_in_their_type() -> None:
    block: Any = network().transformer_blocks[0].double()
    layer = video_layer(block)
    assert isinstance(layer, VideoLayer) and {p.dtype for p in layer.parameters()} == {torch.float64}
    assert [layer.get_submodule(name).eps for name in ("attention.norm_q", "cross.norm_k")] == [
        block.get_submodule(name).eps for name in ("attn1.norm_q", "attn2.norm_k")
    ]
    with torch.no_grad():
        layer.table.zero_()
    assert block.scale_shift_table.abs().min() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"attention_bias": True},
            "the block has attn1.to_k.bias, attn1.to_q.bias, attn1.to_v.bias, which a layer here",
        ),
        (
            {"num_cross_attention_heads": 4, "cross_attention_head_dim": 6},
            "has 2 heads in 24 channels, cross-attention 4",
        ),
        ({"qk_norm": None}, "the block has no attn1.norm_q.weight, which a layer here needs"),
    ],
)
def test_other_blocks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_layer(network(**changes).transformer_blocks[0])
