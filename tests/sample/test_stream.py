"""Streams of video, against a network that sees all frames at once."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds, Condition, Nothing
from oneblock.models.video import Video, VideoConfig, frame_blocks
from oneblock.partition import make_partition
from oneblock.sample import SAMPLERS, euler, flow_grid
from oneblock.sample.stream import RENOISE, Given, Reader, Reading, SampleNoise, Stream, reader, renoise
from oneblock.schedule import FlowMatching, logit_normal

N, FRAMES, SHAPE = 2, 7, (1, 4, 4)
SIZES = (3, 2, 2)
PARTITION = make_partition(logit_normal(), 2)
GRID = flow_grid(PARTITION.law.low, PARTITION.law.high, 4)
CONDITION = ClassIds(torch.tensor([0, 1]), null_id=2)
assert frame_blocks(FRAMES, 2) == SIZES


def network(layers: range, **changes: Any) -> Video:
    torch.manual_seed(layers[0])
    config = {"shape": (FRAMES, *SHAPE), "depth": 4, "width": 8, "heads": 2, "patch": 2, "num_classes": 2}
    made = Video(VideoConfig(**{**config, "block_frames": 2, "noise_scale": 0.004, **changes}), layers).double()
    for p in made.parameters():
        nn.init.normal_(p, std=0.25)
    return made


def denoiser(**changes: Any) -> Denoiser:
    """Two blocks of two layers."""
    parts = [BlockDenoiser(network(range(2 * b, 2 * b + 2), **changes), FlowMatching()) for b in range(2)]
    return Denoiser(PARTITION, lambda b: parts[b])


class Double(SampleNoise):
    def __call__(self, like: Tensor) -> Tensor:
        return super().__call__(like).double()


def run(
    start: Reader, sizes: Any = SIZES, n: int = N, condition: Condition = CONDITION, **settings: Any
) -> list[Tensor]:
    given = {"sampler": SAMPLERS["euler"], "grid": GRID, "shape": SHAPE, "noise": Double(0, n), **settings}
    return list(Stream(start, condition=condition, sizes=sizes, **given))


def test_a_stream_is_made_as_if_all_frames_before_were_seen_at_once() -> None:
    found = run(reader(denoiser()))
    assert [block.shape for block in found] == [(N, size, *SHAPE) for size in SIZES]
    two, noise = denoiser(streams="two"), Double(0, N)
    start = 0
    known = torch.zeros(N, FRAMES, *SHAPE, dtype=torch.float64)
    for size, wanted in zip(SIZES, found, strict=True):
        own = slice(start, start + size)

        def among_all(z: Tensor, sigma: Tensor, condition: Condition, own: slice = own) -> Tensor:
            noisy = torch.full_like(known, 7.0)  # later blocks, and what stands at earlier ones, change nothing
            noisy[:, own] = z
            levels = sigma[:, None].expand(N, FRAMES)
            both = torch.cat([torch.zeros_like(levels), levels], dim=1)
            return two(torch.cat([known, noisy], dim=1), both, condition)[:, FRAMES:][:, own]

        z = noise(torch.empty(N, size, *SHAPE)) * float(GRID[0])
        torch.testing.assert_close(wanted, euler(among_all, z, GRID, CONDITION), rtol=1e-10, atol=1e-10)
        known[:, own] = wanted
        start += size


def test_every_block_of_layers_keeps_a_past_of_one_size() -> None:
    kept: list[Reader] = []
    run(reader(denoiser()), sizes=[2] * 6, told=kept.append)
    assert len({reading.nbytes for reading in kept}) == 1 and len(kept) == 5
    last = kept[-1]
    assert isinstance(last, Reading) and set(last.past) == {0, 1}
    assert all(state.position == 10 for state in last.past.values())
    assert list(last.past[1].layers) == ["2", "3"]


def test_reading_keeps_nothing() -> None:
    reading = Reading(denoiser())
    y = torch.randn(N, 2, *SHAPE, dtype=torch.float64)
    after = reading.commit(y, CONDITION, 0.0)
    assert not reading.past and after.past
    sigma = torch.full((N,), 1.5, dtype=torch.float64)
    first = after(y, sigma, CONDITION)
    assert torch.equal(after(y, sigma, CONDITION), first)
    assert not torch.allclose(reading(y, sigma, CONDITION), first)


def test_a_stream_may_never_end() -> None:
    endless = Stream(reader(denoiser()), SAMPLERS["euler"], GRID, CONDITION, itertools.repeat(2), SHAPE, Double(0, N))
    found = torch.cat(list(itertools.islice(endless, 4)), dim=1)
    assert torch.equal(found, torch.cat(run(reader(denoiser()), sizes=[2] * 4), dim=1))


def test_a_sample_does_not_depend_on_how_many_there_are() -> None:
    both = torch.cat(run(reader(denoiser()), sampler=RENOISE), dim=1)
    alone = torch.cat(run(reader(denoiser()), n=1, condition=CONDITION.take(slice(0, 1)), sampler=RENOISE), dim=1)
    torch.testing.assert_close(both[:1], alone)
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("given", [1, 3, 4, 7])
def test_a_video_goes_on_from_its_first_frames(given: int) -> None:
    first = torch.rand(N, given, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = torch.cat(run(reader(denoiser()), first=first), dim=1)
    assert torch.equal(found[:, :given], first)
    if given == 7:
        return
    # what is given changes what follows
    other = torch.cat(run(reader(denoiser()), first=1 - first), dim=1)
    assert (found[:, given:] - other[:, given:]).abs().amax((0, 2, 3, 4)).min() > 1e-6


def test_given_frames_are_shown_clean() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def ask(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        seen.append((z, sigma))
        return 2 * z

    first = torch.ones(1, 1, *SHAPE)
    answer = Given(ask, first, 0.25)(torch.full((1, 3, *SHAPE), 5.0), torch.tensor([9.0]), Nothing(1))
    z, sigma = seen[0]
    assert sigma.tolist() == [[0.25, 9.0, 9.0]]
    assert z[0, :, 0, 0, 0].tolist() == [1.0, 5.0, 5.0]
    assert answer[0, :, 0, 0, 0].tolist() == [1.0, 10.0, 10.0]


def test_guidance_is_the_difference_of_two_streams_with_pasts_of_their_own() -> None:
    y = torch.randn(N, 2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.full((N,), 1.5, dtype=torch.float64)
    guided = reader(denoiser(), 3.0).commit(y, CONDITION, 0.0)
    told = Reading(denoiser()).commit(y, CONDITION, 0.0)(y, sigma, CONDITION)
    untold = Reading(denoiser()).commit(y, CONDITION.null(), 0.0)(y, sigma, CONDITION.null())
    torch.testing.assert_close(guided(y, sigma, CONDITION), untold + 3 * (told - untold))
    outside = reader(denoiser(), 3.0, (2.0, 5.0)).commit(y, CONDITION, 0.0)
    torch.testing.assert_close(outside(y, sigma, CONDITION), told)
    assert guided.nbytes == 2 * Reading(denoiser()).commit(y, CONDITION, 0.0).nbytes


def test_renoising_draws_anew_at_every_level() -> None:
    drawn = iter([torch.tensor([[2.0]]), torch.tensor([[-3.0]])])
    asked: list[tuple[float, float]] = []

    def half(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        asked.append((z.item(), sigma.item()))
        return z / 2

    grid = torch.tensor([8.0, 4.0, 1.0, 0.0])
    found = renoise(half, torch.tensor([[16.0]]), grid, Nothing(1), lambda like: next(drawn))
    assert asked == [(16.0, 8.0), (8.0 + 4 * 2, 4.0), (8.0 - 3, 1.0)]
    assert found.item() == 2.5


def test_levels_of_a_flow_are_even_in_its_time() -> None:
    grid = flow_grid(0.001, 999.0, 5)
    t = grid / (1 + grid)
    torch.testing.assert_close(t, torch.tensor([0.999, 0.8, 0.6, 0.4, 0.2, 0.0], dtype=torch.float64))
    shifted = flow_grid(0.008, 7992.0, 4, shift=8.0)
    torch.testing.assert_close(
        shifted[1:-1] / (1 + shifted[1:-1]), torch.tensor([24 / 25, 8 / 9, 8 / 11], dtype=torch.float64)
    )  # the list of LongSANA, 0.96, 0.889, 0.727
    with pytest.raises(ValueError, match=r"steps=5000 lead below the level 0\.001 or above 999; use fewer steps"):
        flow_grid(0.001, 999.0, 5000)


def test_other_networks_and_levels_are_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.layers, self.head = nn.Identity(), nn.ModuleDict(), nn.Identity()

    own = Denoiser(PARTITION, lambda b: BlockDenoiser(Own(), FlowMatching()))
    with pytest.raises(ValueError, match=r"Own keeps nothing of earlier frames; only models\.video\.Video streams"):
        Reading(own).commit(torch.zeros(N, 2, *SHAPE), CONDITION, 0.0)
    z = torch.zeros(N, 2, *SHAPE, dtype=torch.float64)
    with pytest.raises(ValueError, match="levels of several bands are asked for in one call"):
        Reading(denoiser())(z, torch.tensor([0.01, 100.0], dtype=torch.float64), CONDITION)
    with pytest.raises(ValueError, match="3 frames from frame 0 on go beyond max_frames=2"):
        run(reader(denoiser(shape=(2, *SHAPE), max_frames=2)))
