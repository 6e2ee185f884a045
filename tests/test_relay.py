"""The adapter: what it changes, and that it changes nothing else."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from relay import CONFIG, D, T, V, encoder, masked_tokens, random_state, shaken
from torch import Tensor, nn

from oneblock.backbone import hidden
from oneblock.blockwise import BlockDenoiser
from oneblock.condition import ClassIds, Condition, Nothing
from oneblock.models.dit import DiT, DiTConfig
from oneblock.precondition import MaskedTokens, Precondition
from oneblock.relay import RelayAdapter, relayed
from oneblock.state import NOBODY, START, Hidden, Several

Z, TIMES = masked_tokens(4)
NOTHING = Nothing(4)


def adapter(**settings: object) -> RelayAdapter:
    """With its way open."""
    made = RelayAdapter(encoder(), **{"mask_id": V, **settings})  # type: ignore[arg-type]
    shaken(made.relay, 5, 1.0)
    return made


def dit() -> DiT:
    network = DiT(DiTConfig(image_size=8, channels=1, num_classes=3, depth=2, width=D, heads=2, patch=4))
    shaken(network)
    return network


@pytest.mark.parametrize("linear", [False, True])
def test_without_a_state_and_with_any_at_the_start_it_is_the_network_bit_for_bit(linear: bool) -> None:
    network = encoder()
    expected = network(Z, TIMES, NOTHING)
    fresh = RelayAdapter(network, mask_id=V, linear=linear)
    assert torch.equal(fresh(Z, TIMES, NOTHING), expected)
    assert torch.equal(fresh(Z, TIMES, NOTHING, START)[0], expected)
    assert torch.equal(fresh(Z, TIMES, NOTHING, random_state(4))[0], expected)
    shaken(fresh.relay, 1, 1.0)
    assert torch.equal(fresh(Z, TIMES, NOTHING), expected)
    assert torch.equal(fresh(Z, TIMES, NOTHING, START)[0], expected)
    assert not torch.equal(fresh(Z, TIMES, NOTHING, random_state(4))[0], expected)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("inject", ["masked", "all"])
def test_the_state_enters_after_the_embedding(inject: str, linear: bool) -> None:
    relay = adapter(inject=inject, mask_id=V if inject == "masked" else None, linear=linear)
    state = random_state(4)
    h, modulation = relay.stem(Z, TIMES, NOTHING)
    added = F.layer_norm(state.tokens, (D,), relay.relay.norm.weight, relay.relay.norm.bias)
    if linear:
        added = F.linear(added, relay.relay.map.weight, relay.relay.map.bias)
    h = h + (added * (Z == V)[..., None] if inject == "masked" else added)
    for layer in relay.layers.values():
        h = layer(h, modulation)
    answer, left = relay(Z, TIMES, NOTHING, state)
    torch.testing.assert_close(answer, relay.head(h, modulation))
    assert isinstance(left, Hidden)
    torch.testing.assert_close(left.tokens, h)
    assert left.owner.tolist() == [0] * 4


def test_the_way_starts_open_if_that_is_asked_for() -> None:
    open_way, shut = (RelayAdapter(encoder(), mask_id=V, zero_init=zero) for zero in (False, True))
    assert (open_way.opening, shut.opening) == (1.0, 0.0)
    assert not torch.equal(open_way(Z, TIMES, NOTHING, random_state(4))[0], open_way(Z, TIMES, NOTHING))


def test_samples_without_a_state_do_as_without() -> None:
    """Whatever stands in the place of their tokens."""
    relay, plain = adapter(), encoder()(Z, TIMES, NOTHING)
    some = random_state(4).only(torch.tensor([True, False, True, False]))
    answer, _ = relay(Z, TIMES, NOTHING, some)
    assert torch.equal(answer[[1, 3]], plain[[1, 3]])
    torch.testing.assert_close(answer[[0, 2]], relay(Z, TIMES, NOTHING, random_state(4))[0][[0, 2]])


@pytest.mark.parametrize(("read_layer", "index"), [(-1, 2), (0, 0), (1, 1), (-3, 0)])
def test_the_state_is_read_after_the_layer_that_is_asked_for(read_layer: int, index: int) -> None:
    relay = adapter(read_layer=read_layer)
    seen: list[Tensor] = []
    relay.layers[str(index)].register_forward_hook(lambda layer, inputs, output: seen.append(output))
    answer, left = relay(Z, TIMES, NOTHING, START)
    assert isinstance(left, Hidden)
    assert torch.equal(left.tokens, seen[0])
    torch.testing.assert_close(answer, encoder()(Z, TIMES, NOTHING))


def test_gradients_flow_through_the_state_and_checkpointing_changes_none() -> None:
    found = []
    for checkpointing in (False, True):
        relay = adapter()
        _, left = relayed(relay, Z, TIMES, NOTHING, random_state(4), checkpointing)
        answer, _ = relayed(relay, Z, TIMES, NOTHING, left, checkpointing)
        assert isinstance(left, Hidden)
        left.tokens.retain_grad()
        answer.square().sum().backward()
        assert left.tokens.grad is not None
        masked = (Z == V)[..., None]
        assert bool((left.tokens.grad * masked).any())
        assert not bool((left.tokens.grad * ~masked).any())
        found.append([p.grad for p in relay.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_it_takes_over_the_parts_under_their_names() -> None:
    network = encoder()
    relay = RelayAdapter(network, mask_id=V)
    own = [name for name, _ in network.named_parameters()]
    assert [name for name, _ in relay.named_parameters()] == [*own, "relay.norm.weight", "relay.norm.bias"]
    assert sum(p.numel() for p in relay.relay.parameters()) == 2 * D
    copy = deepcopy(relay)
    shaken(copy, 9)
    assert torch.equal(relay(Z, TIMES, NOTHING), network(Z, TIMES, NOTHING))
    torch.testing.assert_close(copy(Z, TIMES, NOTHING), hidden_and_head(copy, Z))


def hidden_and_head(network: RelayAdapter, z: Tensor) -> Tensor:
    h, modulation = hidden(network, z, TIMES, NOTHING)
    return network.head(h, modulation)


class Methods(nn.Module):
    """Its stem and head are methods."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, D)
        self.layers = nn.ModuleDict({"0": Plain()})
        self.out = nn.Linear(D, 3)

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, None]:
        return self.embed(z), None

    def head(self, h: Tensor, modulation: None) -> Tensor:
        return self.out(h)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(D, D)

    def forward(self, h: Tensor, modulation: None) -> Tensor:
        return h + self.map(h)


def test_stem_and_head_may_be_methods_and_a_copy_has_its_own() -> None:
    network = Methods()
    z, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(2)
    relay = RelayAdapter(network, inject="all", width=D)
    shaken(relay, 3)
    state = Hidden(torch.randn(2, 4, D, generator=torch.Generator().manual_seed(1)), torch.zeros(2, dtype=torch.long))
    expected = relay(z, noise, Nothing(2), state)[0]
    copy = deepcopy(relay)
    shaken(copy, 4)
    torch.testing.assert_close(relay(z, noise, Nothing(2), state)[0], expected)
    assert not torch.allclose(copy(z, noise, Nothing(2), state)[0], expected)
    copy.load_state_dict(relay.state_dict())
    torch.testing.assert_close(copy(z, noise, Nothing(2), state)[0], expected)


def test_the_way_is_saved_apart(tmp_path: Path) -> None:
    relay, other = adapter(), RelayAdapter(encoder(), mask_id=V)
    relay.save_relay(tmp_path / "relay.safetensors")
    other.load_relay(tmp_path / "relay.safetensors")
    state = random_state(4)
    assert torch.equal(other(Z, TIMES, NOTHING, state)[0], relay(Z, TIMES, NOTHING, state)[0])
    with pytest.raises(ValueError, match="does not fit this adapter"):
        RelayAdapter(encoder(), mask_id=V, linear=True).load_relay(tmp_path / "relay.safetensors")


def test_a_denoiser_scales_around_it() -> None:
    """Its frame stands around a call with a state as around one without."""
    relay = RelayAdapter(dit(), inject="all")
    shaken(relay.relay, 5, 1.0)
    frame, labels = Precondition(0.5), ClassIds(torch.tensor([0, 3]))
    z, sigma = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 0.2])
    state = Hidden(torch.randn(2, 4, D, generator=torch.Generator().manual_seed(1)), torch.zeros(2, dtype=torch.long))
    prediction, _ = relay(frame.inputs(z, sigma), frame.noise(sigma), labels, state)
    answer, left = BlockDenoiser(relay, frame)(z, sigma, labels, state)
    torch.testing.assert_close(answer, frame.outputs(z, sigma, prediction))
    assert isinstance(left, Hidden)
    assert left.tokens.shape == (2, 4, D)


def test_a_denoiser_without_the_adapter_hands_on_nothing() -> None:
    plain = BlockDenoiser(encoder(), MaskedTokens())
    answer, left = plain(Z, TIMES, NOTHING, random_state(4))
    assert left is START
    assert torch.equal(answer, plain(Z, TIMES, NOTHING))


class Loose(Methods):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(D))


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (encoder(), {"mask_id": V, "read_layer": 3}, "read_layer=3 does not exist; use -3 to 2"),
        (encoder(), {"mask_id": V, "inject": "some"}, "inject='some' is not allowed"),
        (encoder(), {}, "inject='masked', mask_id=None: give the token"),
        (encoder(), {"inject": "all", "mask_id": 3}, "inject='all', mask_id=3: give the token"),
        (Methods(), {"inject": "all"}, "width=0: Methods does not say how wide its tokens are"),
        (Loose(), {"inject": "all", "width": D}, "Loose.token stands outside of its parts"),
        (RelayAdapter(encoder(), mask_id=V), {"mask_id": V}, "RelayAdapter.relay stands outside of its parts"),
        (nn.Linear(2, 2), {"mask_id": V}, "Linear has no stem"),
    ],
)
def test_what_does_not_fit_is_refused(network: nn.Module, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelayAdapter(network, **settings)  # type: ignore[arg-type]


def test_a_state_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="the state is Several; a block takes Hidden or START"):
        adapter()(Z, TIMES, NOTHING, Several((START, START)))
    with pytest.raises(ValueError, match=r"owner is torch.int64 \(3,\), tokens \(4, 7, 16\)"):
        Hidden(torch.zeros(4, T, D), torch.full((3,), NOBODY))
    assert CONFIG.width == D
