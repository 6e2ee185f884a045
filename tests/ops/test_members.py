"""Whole networks as members of a population, against the same networks with the members' weights put in."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oneblock.models.layers import Layer, LayerConfig, ModulatedLayer
from oneblock.ops.low_rank import rows_and_columns
from oneblock.ops.members import Full, LowRank, Members, Offset

MEMBERS = 4


class Odd(nn.Module):
    """Parameters used directly, tied and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.places = nn.Parameter(torch.randn(1, 5, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.mix = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(8))
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = (self.embed(ids) + self.places[:, : ids.shape[1]]) * self.scale.to(self.places.dtype)
        h = h @ self.mix
        h = torch.addmm(self.bias, h.flatten(0, 1), self.mix).view_as(h)
        return self.head(h)


class Keys(nn.Module):
    """Attention without a batch, with a mask, and with fewer heads of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.slopes = nn.Linear(8, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(4))

    def forward(self, h: Tensor) -> Tensor:
        q, k = self.q(h).unflatten(-1, (4, 2)).transpose(1, 2), self.k(h).unflatten(-1, (2, 2)).transpose(1, 2)
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        first = F.scaled_dot_product_attention(q, k, k, mask, enable_gqa=True)
        second = F.scaled_dot_product_attention(
            q, h[:, None].expand_as(k.repeat(1, 1, 1, 4)).repeat(1, 2, 1, 1)[..., :2], q
        )
        third = F.scaled_dot_product_attention(q[0], q[0], q[0], is_causal=True)
        far = -torch.arange(q.shape[2]) * self.slopes[:, None, None].expand(-1, q.shape[2], -1)
        fourth = F.scaled_dot_product_attention(q, q, q, far)
        fifth = F.scaled_dot_product_attention(q, q, q, h[:, None, :, :5])
        sixth = F.scaled_dot_product_attention(q, q, q, h[:1, None, :, :5])
        return first + second + third + fourth + fifth + sixth


CASES: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "layer": (lambda: Layer(LayerConfig(width=8, heads=2)), (torch.randn(3, 5, 8),)),
    "modulated": (lambda: ModulatedLayer(LayerConfig(width=8, heads=2)), (torch.randn(3, 5, 8), torch.randn(3, 8))),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, groups=2, stride=2), nn.GroupNorm(2, 4), nn.GELU(), nn.Conv2d(4, 2, 1)
        ),
        (torch.randn(3, 2, 8, 8),),
    ),
    "circular": (
        lambda: nn.Sequential(nn.Conv1d(1, 4, 3, padding=1, padding_mode="circular"), nn.BatchNorm1d(4).eval()),
        (torch.randn(3, 1, 8),),
    ),
    "odd": (Odd, (torch.randint(7, (3, 4)),)),
    "keys": (Keys, (torch.randn(3, 5, 8),)),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, batch_first=True).eval(), (torch.randn(3, 5, 8),)),
    "norms": (lambda: nn.Sequential(nn.RMSNorm(8), nn.LayerNorm(8)), (torch.randn(3, 8),)),
}


def offsets_of(network: nn.Module, rank: int) -> dict[str, tuple[Tensor, ...]]:
    found: dict[str, tuple[Tensor, ...]] = {}
    for name, p in network.named_parameters():
        if p.ndim < 2:
            found[name] = (torch.randn(MEMBERS, *p.shape).double(),)
        else:
            rows, columns = rows_and_columns(p.shape)
            found[name] = torch.randn(MEMBERS, rows, rank).double(), torch.randn(MEMBERS, columns, rank).double()
    return found


def offset(tensors: tuple[Tensor, ...]) -> Offset:
    return LowRank(*tensors) if len(tensors) == 2 else Full(*tensors)


def member(offsets: dict[str, tuple[Tensor, ...]], index: int) -> dict[str, tuple[Tensor, ...]]:
    return {name: tuple(t[index] for t in tensors) for name, tensors in offsets.items()}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_members_are_the_network_with_their_weights(name: str, rank: int) -> None:
    torch.manual_seed(0)
    build, inputs = CASES[name]
    network = build().double()
    inputs = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    parameters, offsets = dict(network.named_parameters()), offsets_of(network, rank)

    def one(mine: dict[str, tuple[Tensor, ...]]) -> Tensor:
        with Members(parameters, {name: offset(tensors) for name, tensors in mine.items()}):
            return network(*inputs)

    with torch.no_grad():
        expected = []
        for i in range(MEMBERS):
            whole = {name: offset(t).added(parameters[name]) for name, t in member(offsets, i).items()}
            expected.append(torch.func.functional_call(network, whole, inputs))
        together = torch.vmap(one)(offsets)
        alone = torch.stack([one(member(offsets, i)) for i in range(MEMBERS)])
    assert not torch.equal(expected[0], expected[1])
    torch.testing.assert_close(together, torch.stack(expected))
    torch.testing.assert_close(alone, torch.stack(expected))


def run(network: nn.Module, *inputs: Tensor) -> dict[str, str]:
    """What was made as a whole, and for which function."""
    made: dict[str, str] = {}
    offsets = {name: offset(t) for name, t in member(offsets_of(network.double(), 1), 0).items()}
    with torch.no_grad(), Members(dict(network.named_parameters()), offsets, made):
        network(*inputs)
    return made


def test_whole_matrices_are_reported_and_only_these() -> None:
    assert run(Odd(), torch.randint(7, (3, 4))) == {"places": "__getitem__"}
    assert run(nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), torch.randn(3, 8).double()) == {}
    made = run(nn.TransformerEncoderLayer(8, 2).eval(), torch.randn(3, 2, 8).double())
    assert set(made) == {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.weight.clamp_(0, 1)
        return x * self.weight


def test_a_parameter_that_is_changed_in_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"changes a parameter in place \(clamp_\).*or freeze the parameter"):
        run(InPlace(), torch.ones(3))
