from typing import Any

import pytest
import torch
from torch import Tensor

from oneblock.condition import Tokens
from oneblock.models.cache import Cache
from oneblock.models.gpt import GPT, GPTConfig, Streams
from oneblock.ops import concatenated, two_pass

N, T, V, K, D = 2, 6, 7, 5, 16
CONFIG: dict[str, Any] = {"vocabulary": V, "context": T, "label_width": K, "depth": 2, "width": D, "heads": 4}
ALL_STREAMS: tuple[Streams, ...] = ("two", "one", "none")


def randomised(streams: Streams = "two", layers: range | None = None, **changes: int) -> GPT:
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(**CONFIG, streams=streams, kv_heads=2, **changes), layers).double()
    with torch.no_grad():
        for p in gpt.parameters():
            p.normal_(std=0.3)
    return gpt


def inputs(places: int = T) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(N, places, K, generator=generator, dtype=torch.float64)
    return z, torch.randn(N, generator=generator), torch.randint(V, (N, T), generator=generator)


def moved(a: Tensor, b: Tensor) -> list[bool]:
    """At which places answers differ."""
    return ((a - b).abs().amax((0, 2)) > 1e-9).tolist()


@pytest.mark.parametrize("streams", ALL_STREAMS)
@pytest.mark.parametrize("prelude", [0, 1])
def test_no_place_sees_its_token_or_a_later_one(streams: Streams, prelude: int) -> None:
    gpt = randomised(streams, prelude=prelude, coda=prelude)
    z, noise, tokens = inputs()
    before = gpt(z, noise, Tokens(tokens))
    for place in range(T):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % V
        assert moved(gpt(z, noise, Tokens(changed)), before) == [i > place for i in range(T)]


def test_noise_never_reaches_another_place() -> None:
    gpt, (z, noise, tokens) = randomised("two"), inputs()
    before = gpt(z, noise, Tokens(tokens))
    for place in range(T):
        changed = z.clone()
        changed[:, place] += 1.0
        assert moved(gpt(changed, noise, Tokens(tokens)), before) == [i == place for i in range(T)]


def test_noise_that_is_carried_reaches_only_places_that_know_its_token() -> None:
    gpt, (z, noise, tokens) = randomised("one"), inputs()
    before = gpt(z, noise, Tokens(tokens))
    changed = z.clone()
    changed[:, 2] += 1.0
    assert moved(gpt(changed, noise, Tokens(tokens)), before) == [i >= 2 for i in range(T)]


def test_what_is_carried_and_what_is_asked_may_differ() -> None:
    gpt, (z, noise, tokens) = randomised("one", coda=1), inputs()
    torch.testing.assert_close(gpt(torch.cat([z, z], 1), noise, Tokens(tokens)), gpt(z, noise, Tokens(tokens)))
    asked = z.clone()
    asked[:, 2] += 1.0
    found = gpt(torch.cat([z, asked], 1), noise, Tokens(tokens))
    assert moved(found, gpt(z, noise, Tokens(tokens))) == [i == 2 for i in range(T)]


def test_an_ordinary_network_knows_nothing_of_noise() -> None:
    gpt, (z, noise, tokens) = randomised("none"), inputs()
    assert torch.equal(gpt(z, noise, Tokens(tokens)), gpt(z + 1, noise + 1, Tokens(tokens)))


@pytest.mark.parametrize("streams", ["two", "one"])
def test_the_level_reaches_every_place(streams: Streams) -> None:
    gpt, (z, noise, tokens) = randomised(streams), inputs()
    assert all(moved(gpt(z, noise + 1, Tokens(tokens)), gpt(z, noise, Tokens(tokens))))


def test_one_pass_over_both_streams_equals_two(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for attend in (concatenated, two_pass):
        monkeypatch.setattr("oneblock.models.gpt.two_streams", attend)
        gpt, (z, noise, tokens) = randomised("two"), inputs()
        loss = torch.nn.functional.cross_entropy(gpt(z, noise, Tokens(tokens)).flatten(0, 1), tokens.flatten())
        results.append((loss, *torch.autograd.grad(loss, list(gpt.parameters()))))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("streams", ALL_STREAMS)
@pytest.mark.parametrize("prelude", [0, 1])
def test_cached_answers_are_those_of_the_whole_text(streams: Streams, prelude: int) -> None:
    gpt = randomised(streams, prelude=prelude, coda=2 * prelude)
    (z, noise, tokens), (other, _, _) = inputs(), inputs(2 * T)
    asked = other[:, T:] if streams == "one" else z
    cache, answers = Cache(gpt, N), []
    for i in range(T):
        cache.ask(z[:, i] + 3.0, noise + 1)  # an earlier call leaves nothing behind
        answers.append(cache.ask(asked[:, i], noise))
        cache.read(tokens[:, i], other[:, i], noise)
    whole = gpt(other if streams == "one" else z, noise, Tokens(tokens))
    torch.testing.assert_close(torch.stack(answers, 1), whole)


def test_a_full_cache_asks_no_further() -> None:
    cache, (z, noise, tokens) = Cache(randomised(), N), inputs()
    for i in range(T):
        cache.read(tokens[:, i], z[:, i], noise)
    with pytest.raises(ValueError, match="the text has 7 tokens, but the network was made for 6; cut it"):
        cache.ask(z[:, 0], noise)


def test_a_part_has_the_keys_of_the_whole() -> None:
    whole, part = randomised().state_dict(), randomised(layers=range(1, 2)).state_dict()
    assert set(part) == {key for key in whole if not key.startswith("layers.0.")}


def test_an_untrained_network_says_nothing() -> None:
    z, noise, tokens = inputs()
    assert torch.equal(GPT(GPTConfig(**CONFIG))(z, noise, Tokens(tokens)), torch.zeros(N, T, V))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": 0}, "context=0 leaves nothing to learn; use 1 or more"),
        ({"coda": -1}, "prelude=0, coda=-1 are not numbers of layers; use 0 or more"),
        ({"heads": 3}, "heads=3 does not divide width=16"),
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPTConfig(**CONFIG | changes)


def test_a_text_longer_than_the_context_is_refused() -> None:
    z, noise, tokens = inputs()
    with pytest.raises(ValueError, match="the text has 12 tokens, but the network was made for 6; cut it"):
        randomised()(torch.cat([z, z], 1), noise, Tokens(torch.cat([tokens, tokens], 1)))


def test_a_text_with_a_mask_is_refused() -> None:
    z, noise, tokens = inputs()
    with pytest.raises(ValueError, match="the tokens have a mask; this network reads them all: give Tokens"):
        randomised()(z, noise, Tokens(tokens).null())
