"""Streams of video that are saved go on as if they had never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from oneblock.blockwise import BlockDenoiser, Denoiser
from oneblock.condition import ClassIds
from oneblock.models.video import Video, VideoConfig
from oneblock.partition import make_partition
from oneblock.sample import flow_grid
from oneblock.sample.kept import Belongs, restore_stream, save_stream
from oneblock.sample.stream import RENOISE, SampleNoise, Stream, reader
from oneblock.schedule import FlowMatching, logit_normal

N, SHAPE, SIZES = 2, (1, 4, 4), (3, 2, 2, 2, 2)
PARTITION = make_partition(logit_normal(), 2)
GRID = flow_grid(PARTITION.law.low, PARTITION.law.high, 3)
CONDITION = ClassIds(torch.tensor([0, 1]), null_id=2)
BELONGS = Belongs(plan="0" * 16, labels=(0, 1), guided=False)
CPU = torch.device("cpu")


def denoiser(**changes: Any) -> Denoiser:
    blocks = []
    for b in range(2):
        torch.manual_seed(b)
        config: dict[str, Any] = {"shape": (7, *SHAPE), "depth": 4, "width": 8, "heads": 2, "patch": 2}
        config |= {"num_classes": 2, "block_frames": 2, "noise_scale": 0.004, **changes}
        made = Video(VideoConfig(**config), range(2 * b, 2 * b + 2))
        for p in made.parameters():
            nn.init.normal_(p, std=0.25)
        blocks.append(BlockDenoiser(made, FlowMatching()))
    return Denoiser(PARTITION, blocks.__getitem__)


def stream(sizes: tuple[int, ...] = SIZES, scale: float = 1.0, seed: int = 0, **changes: Any) -> Stream:
    start = reader(denoiser(**changes), scale)
    return Stream(start, RENOISE, GRID, CONDITION, sizes, SHAPE, SampleNoise(seed, N))


@pytest.mark.parametrize("scale", [1.0, 2.0], ids=["unguided", "guided"])
@pytest.mark.parametrize(
    "changes", [{}, {"attention": "softmax"}, {"window": 1}, {"attention": "softmax", "window": 2}, {"temporal": False}]
)
def test_a_saved_stream_goes_on(changes: dict[str, Any], scale: float, tmp_path: Path) -> None:
    wanted = list(stream(scale=scale, **changes))
    first = stream(SIZES[:3], scale, **changes)
    found, belongs = list(first), Belongs(plan="0" * 16, labels=(0, 1), guided=scale != 1)
    save_stream(tmp_path / "deep" / "state.safetensors", first, belongs)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state.safetensors"]
    second = stream(SIZES[3:], scale, seed=9, **changes)
    restore_stream(tmp_path / "deep" / "state.safetensors", second, belongs, CPU)
    assert second.frames == 7
    found += list(second)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert second.frames == sum(SIZES)


def test_a_block_that_was_broken_off_is_made_again(tmp_path: Path) -> None:
    class BrokenOffError(Exception):
        pass

    class Breaks(SampleNoise):
        left = 5

        def __call__(self, like: Tensor) -> Tensor:
            self.left -= 1
            if not self.left:
                raise BrokenOffError
            return super().__call__(like)

    wanted, broken = list(stream()), Stream(reader(denoiser()), RENOISE, GRID, CONDITION, SIZES, SHAPE, Breaks(0, N))
    next(broken)
    with pytest.raises(BrokenOffError):
        next(broken)
    save_stream(tmp_path / "state", broken, BELONGS)
    second = stream(SIZES[1:])
    restore_stream(tmp_path / "state", second, BELONGS, CPU)
    assert all(torch.equal(one, other) for one, other in zip(second, wanted[1:], strict=True))


def test_states_of_something_else_are_refused(tmp_path: Path) -> None:
    made = stream()
    with pytest.raises(ValueError, match="nothing was made yet that"):
        save_stream(tmp_path / "state", made, BELONGS)
    next(made)
    save_stream(tmp_path / "state", made, BELONGS)
    for other, message in (
        (
            Belongs(plan="1" * 16, labels=(0, 1), guided=False),
            "but this model has the plan 1111111111111111; go on with",
        ),
        (Belongs(plan="0" * 16, labels=(0, 2), guided=False), r"of the classes \[0, 1\], but \[0, 2\] are asked for"),
        (Belongs(plan="0" * 16, labels=(0, 1), guided=True), "holds no past for guidance; go on with guidance 1"),
    ):
        with pytest.raises(ValueError, match=message):
            restore_stream(tmp_path / "state", stream(), other, CPU)
    (tmp_path / "text").write_text("no state")
    with pytest.raises(ValueError, match="text cannot be read"):
        restore_stream(tmp_path / "text", stream(), BELONGS, CPU)
    save_file({"a": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other holds no stream"):
        restore_stream(tmp_path / "other", stream(), BELONGS, CPU)
