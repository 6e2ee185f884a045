"""Video from a recipe to a plan, a run and a model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import oneblock as ob
from oneblock.condition import Condition
from oneblock.data import EncodedSource, VideoData, open_bouncing
from oneblock.data.places import read_record
from oneblock.evaluate.video import video_losses
from oneblock.model import ImageModel, VideoModel
from oneblock.noise import LogNormal
from oneblock.precondition import Precondition
from oneblock.presets import ImageFacts, blockwise, plan_source, plan_task, training_peak
from oneblock.presets.door import check_plan
from oneblock.presets.objective import objective_frame
from oneblock.presets.video import VideoRecipe, clean_level, video_config
from oneblock.schedule import FlowMatching
from oneblock.train.self_forcing import Forced, SelfForcing
from oneblock.train.strategy import job_specs

pytest.importorskip("sklearn")
FACTS = ImageFacts(shape=(6, 1, 8, 8), num_classes=10)
TINY: dict[str, Any] = {
    "depth": 2,
    "width": 16,
    "heads": 2,
    "patch": 4,
    "blocks": 2,
    "budget": 4 * 8 * 2,
    "batch_size": 8,
    "block_batch_size": 8,
    "block_frames": 2,
    "levels": "monotone",
}
CLIPS = VideoData(data="bouncing-digits,clips=24", frames=6, frame_size=8)


def recipe(**changes: Any) -> VideoRecipe:
    return VideoRecipe(**TINY | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("video") / "run"
    ob.train(recipe(), data=CLIPS, out=out)
    return out


def test_a_flow_is_in_the_plan_as_a_law_and_a_shift() -> None:
    plan = recipe(shift=3.0, time_mean=-0.5, time_std=0.8).plan(FACTS)
    law = plan.partition.law
    assert isinstance(law, LogNormal) and (law.p_std, law.low, law.high) == (0.8, 3 / 999, 3 * 999)
    assert law.p_mean == pytest.approx(-0.5 + 1.0986122886681098)
    assert objective_frame(plan) == FlowMatching(3.0) == blockwise(plan).denoiser(0).frame
    assert clean_level(plan) == 0 and video_config(plan).noise_scale == 0.004
    edm = recipe(objective="edm", sigma_data=0.7).plan(FACTS)
    assert edm.partition.law == LogNormal() and objective_frame(edm) == Precondition(0.7)
    assert clean_level(edm) == 0.002 and video_config(edm).noise_scale == 1.0


def test_clean_blocks_before_noisy_ones_are_twice_the_work() -> None:
    once, twice = (recipe(levels=levels).plan(FACTS) for levels in ("independent", "clean"))
    assert (video_config(once).streams, video_config(twice).streams) == ("one", "two")
    assert [job.sample_evaluations for job in job_specs(once)] == [1, 1]
    assert [job.sample_evaluations for job in job_specs(twice)] == [2, 2]
    assert "passes" not in once.recipe
    whole = recipe(levels="clean", block_frames=0).plan(FACTS)  # nothing comes before
    assert (video_config(whole).streams, whole.recipe["levels"]) == ("one", "same")


@pytest.mark.parametrize("changes", [{}, {"levels": "clean"}, {"objective": "edm", "block_frames": 0, "window": 2}])
def test_what_a_recipe_plans_can_be_trained_and_counted(changes: dict[str, Any]) -> None:
    plan = recipe(**changes).plan(FACTS)
    check_plan(plan)
    assert training_peak(plan).total == training_peak(plan, real=True).total > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 3}, "patch=3 does not divide frames of 8 x 8 pixels; use a divisor of both"),
        ({"block_frames": 7}, "there are 6 frames, fewer than block_frames=7"),
        ({"window": 0}, "window=0 is not allowed; use a whole number, 1 or more"),
        ({"max_frames": 5}, "6 frames from frame 0 on go beyond max_frames=5"),
        ({"shift": 0.0}, "shift=0.0 is not allowed; use a number, above 0"),
        ({"levels": "falling"}, "levels='falling' is not allowed in VideoRecipe; use one of same, independent"),
        ({"first_clean": 1.0}, "first_clean=1.0 is not allowed"),
        ({"block_frames": -1}, "block_frames=-1 is not allowed; use a whole number, 0 or more"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        recipe(**changes).plan(FACTS)


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"samples have shape \(1, 8, 8\); this network takes clips \(frames, channels"
    ):
        recipe().plan(ImageFacts(shape=(1, 8, 8), num_classes=10))
    with pytest.raises(ValueError, match="conditional=True tells the network a class, but the clips have none"):
        recipe().plan(ImageFacts(shape=(6, 1, 8, 8), num_classes=0))
    with pytest.raises(ValueError, match="data is a ImageData; this recipe trains on clips: give their name or a"):
        ob.train(recipe(), data=ob.ImageData(), out=tmp_path)
    with pytest.raises(ValueError, match="data is a VideoData; this recipe trains on images: give their name or a"):
        ob.train(ob.ImageRecipe(), data=CLIPS, out=tmp_path)
    with pytest.raises(ValueError, match="data='digits' is unknown; bouncing-digits, bouncing-clothes, folder:DIR are"):
        ob.train(recipe(), data="digits", out=tmp_path)


def test_a_plan_whose_parts_disagree_is_refused() -> None:
    plan = recipe(levels="clean").plan(FACTS)
    for changed, message in (
        ({"recipe": {**plan.recipe, "levels": "same"}}, "architecture.streams='two', but recipe.levels='same' needs"),
        ({"recipe": {**plan.recipe, "passes": 1}}, "recipe.passes=1 does not count the work of two streams"),
        ({"architecture": {**plan.architecture, "depth": 3}}, "add up to 2, but architecture.depth=3"),
    ):
        with pytest.raises(ValueError, match=message):
            check_plan(type(plan)(**{**vars_of(plan), **changed}))


def vars_of(plan: ob.Plan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__dataclass_fields__}


def test_a_block_trains_alone_as_it_does_beside_the_others(run: Path, tmp_path: Path) -> None:
    for block in (1, 0):
        ob.train(recipe(), data=CLIPS, out=tmp_path / "alone", strategy="one-block", block=block)
    for name in ("block-0", "block-1"):
        (one,), (other,) = (sorted((where / name).glob("*.safetensors"))[-1:] for where in (run, tmp_path / "alone"))
        assert one.read_bytes() == other.read_bytes()


def test_a_verb_for_all_tasks_finds_the_clips_of_a_plan(run: Path) -> None:
    """`oneblock job` says where data lie as if they were images."""
    plan = ob.read_plan(run)
    for data in (None, ob.ImageData(data=""), VideoData(data="")):
        source = plan_source(plan, data)
        assert isinstance(source, EncodedSource) and source.fingerprint() == plan.recipe["fingerprint"]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    made = recipe(blocks=1, budget=40 * 8 * 2, levels="clean", learning_rate=0.01)
    ob.train(made, data=CLIPS, out=tmp_path / "run")
    model = ob.Model.open(tmp_path / "run")
    clips = open_bouncing("bouncing-digits,clips=80", "test", size=8)
    values = clips.render(6).float() / 127.5 - 1
    assert clips.labels is not None
    losses = video_losses(model.denoiser, model.plan, values, clips.labels, model.plan.partition)
    fresh = VideoModel(model.plan, untrained(model), model.directory)
    assert losses[0] < 0.7 * video_losses(fresh.denoiser, model.plan, values, clips.labels, model.plan.partition)[0]


def untrained(model: ob.Model) -> Any:
    from oneblock.blockwise import Denoiser

    return Denoiser(model.plan.partition, blockwise(model.plan).denoiser)


def test_a_model_makes_videos(run: Path, tmp_path: Path) -> None:
    model = VideoModel.open(run)
    videos = model.sample([3, 1], frames=9, steps=2, sampler="renoise")
    assert videos.shape == (2, 9, 1, 8, 8) and videos.dtype == torch.uint8
    model.save(tmp_path / "model")
    merged = VideoModel.open(tmp_path / "model", resident=1)
    assert torch.equal(merged.sample([3, 1], frames=9, steps=2, sampler="renoise"), videos)
    pieces = list(model.stream(["3", "1"], frames=9, steps=2, sampler="renoise"))
    assert [piece.shape[1] for piece in pieces] == [3, 2, 2, 2]
    assert torch.equal(torch.cat(pieces, dim=1), videos)
    assert model.sample(steps=1).shape == (10, 6, 1, 8, 8)
    assert model.sample(count=3, steps=1).shape == (3, 6, 1, 8, 8)
    with pytest.raises(ValueError, match="is a run of task 'video'; open it with VideoModel or Model"):
        ImageModel.open(run)


def test_a_stream_has_no_end_and_keeps_the_same_bytes(run: Path) -> None:
    from oneblock.evaluate.video import VideoSampling, stream_videos
    from oneblock.sample.stream import Reader

    model, kept = VideoModel.open(run), []

    def told(reading: Reader) -> None:
        kept.append(reading.nbytes)

    sampling = VideoSampling(steps=1, sampler="euler")
    endless = stream_videos(model.denoiser, model.plan, torch.zeros(1).long(), 0, sampling, told=told)
    frames = sum(next(endless).shape[1] for _ in range(20))
    assert frames == 2 * 20 and len(set(kept)) == 1


def test_videos_begin_with_given_frames(run: Path) -> None:
    model = VideoModel.open(run)
    first = open_bouncing("bouncing-digits,clips=80", "test", size=8).render(1)[:2]
    found = model.sample([0, 1], frames=6, first=first, steps=2)
    assert torch.equal(found[:, :1], first)
    with pytest.raises(
        ValueError, match=r"first is torch\.float32 \(2, 1, 1, 8, 8\); give torch\.uint8 \(n, frames, 1"
    ):
        model.sample([0, 1], first=first.float(), steps=2)
    with pytest.raises(ValueError, match="first has 2 samples, and 1 are asked for; give as many"):
        model.sample([0], first=first, steps=2)


def test_many_videos_are_made_in_parts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = VideoModel.open(run)
    wanted = model.sample([0, 1, 2], frames=4, steps=1)
    monkeypatch.setattr("oneblock.evaluate.video.BATCH", 2)
    assert (model.sample([0, 1, 2], frames=4, steps=1).int() - wanted.int()).abs().max() <= 1  # up to rounding


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": [0], "count": 2}, "count=2 is given beside labels, which say how many; use one of them"),
        ({"labels": [10]}, r"classes=\[10\] do not exist; use 0 to 9"),
        ({"count": 0}, "count=0 makes nothing; use 1 or more"),
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"steps": 3, "grid": "equal-mass"}, "steps=3 is not a multiple of the 2 blocks"),
        ({"frames": 1}, "there are 1 frames, fewer than block_frames=2"),
        ({"frames": -1}, "frames=-1 is not allowed"),
        ({"frames": 20_000}, "20000 frames from frame 0 on go beyond max_frames=16384"),
        ({"guidance": -1.0}, "guidance=-1.0 is not allowed"),
    ],
)
def test_videos_that_cannot_be_made_are_refused(run: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoModel.open(run).sample(**settings)


def test_scores_of_a_model(run: Path) -> None:
    row = VideoModel.open(run).evaluate(CLIPS, num_clips=3, times_longer=2, steps=2)
    assert len(row["band_losses"]) == 2 and row["loss"] == sum(row["band_losses"]) / 2
    assert row["features"] == "frame-pairs-8x8" and row["frechet"] >= 0 <= row["frechet_floor"]
    assert len(row["place_error"]) == len(row["still_error"]) == 2
    assert len(row["place_errors"]) == 2 * 6 - 2
    assert row["place_error"][1] == pytest.approx(sum(row["place_errors"][4:]) / 6)
    assert "other_data" not in row
    losses = VideoModel.open(run).evaluate(CLIPS, num_clips=0, report_bands=3)
    assert set(losses) == {"band_losses", "loss"} and len(losses["band_losses"]) == 3


def test_losses_do_not_depend_on_the_noise_of_training(tmp_path: Path) -> None:
    """The same weights are scored the same, each block of frames after clean ones, whatever the policy was."""
    from oneblock.blockwise import Denoiser

    clips = torch.rand(4, 6, 1, 8, 8) * 2 - 1
    found = []
    for levels in ("clean", "monotone", "same"):
        plan = recipe(levels=levels, blocks=1).plan(FACTS)
        denoiser = Denoiser(plan.partition, blockwise(plan).denoiser)
        for p in denoiser.block(0).parameters():
            torch.nn.init.constant_(p, 0.05)
        found.append(video_losses(denoiser, plan, clips, torch.zeros(4).long(), plan.partition)[0])
    assert found[0] == pytest.approx(found[1], rel=1e-6) == pytest.approx(found[2], rel=1e-6)


class Own(nn.Module):
    """Frames one by one: a linear map and the level."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(i): Shift() for i in layers})

    def stem(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        return z, noise.view(*noise.shape, *[1] * (z.ndim - noise.ndim))

    def head(self, h: Tensor, modulation: Tensor) -> Tensor:
        return h


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(1))

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        return h + self.by * modulation


def test_a_network_of_ones_own_makes_whole_clips(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="block_frames=2: a network of your own is given whole clips; use block_frames=0"
    ):
        ob.train(recipe(), data=CLIPS, out=tmp_path / "run", backbone=Own)
    done = ob.train(recipe(block_frames=0), data=CLIPS, out=tmp_path / "run", backbone=Own)
    assert plan_task(done.plan).levels.policy == "same"  # type: ignore[attr-defined]
    model = VideoModel.open(tmp_path / "run", backbone=Own)
    assert set(model.evaluate(CLIPS, num_clips=0)) == {"band_losses", "loss"}
    assert model.sample([0], steps=2).shape == (1, 6, 1, 8, 8)
    with pytest.raises(
        ValueError, match="frames=0 goes on without end, but this network makes whole clips; say how many"
    ):
        next(model.stream([0], steps=2))


def test_clips_of_ones_own(tmp_path: Path) -> None:
    clips = torch.randint(256, (24, 6, 3, 8, 8), dtype=torch.uint8)
    made = recipe(conditional=False)
    ob.train(made, data=TensorDataset(clips), out=tmp_path / "run")
    model = VideoModel.open(tmp_path / "run")
    assert model.sample(count=2, steps=1).shape == (2, 6, 3, 8, 8)
    with pytest.raises(ValueError, match="count=None, but a model without classes needs a number of videos"):
        model.sample()
    row = model.evaluate(TensorDataset(clips), num_clips=2, steps=1)
    assert "place_error" not in row and "frechet" in row


def test_films_of_ones_own_are_found_again_at_their_rate(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    for film in range(4):
        for split in ("train", "test"):
            folder = tmp_path / "films" / split / f"{film}"
            folder.mkdir(parents=True)
            for i in range(6):
                Image.new("L", (9, 8), 40 * i + film).save(folder / f"{i}.png")
    data = VideoData(data=f"folder:{tmp_path / 'films'}", frames=6, frame_size=8, fps=4)
    ob.train(recipe(), data=data, out=tmp_path / "run")
    model = VideoModel.open(tmp_path / "run")
    assert (model.plan.recipe["fps"], model.classes) == (4, ("unlabelled",))
    source = plan_source(model.plan)
    assert isinstance(source, EncodedSource) and source.fingerprint() == model.plan.recipe["fingerprint"]
    assert len(model.evaluate(num_clips=0)["band_losses"]) == 2
    forced = model.self_force(tmp_path / "forced", SelfForcing(updates=1, critic_updates=1, batch_size=2, steps=1))
    record = read_record(forced.directory)
    assert record is not None and record.place == str(tmp_path / "films")
    assert "fps" not in recipe().plan(FACTS).recipe


def test_a_model_learns_from_what_it_makes(run: Path, tmp_path: Path) -> None:
    model = VideoModel.open(run)
    told: list[Forced] = []
    before = model.sample([3], frames=4, steps=2, sampler="renoise")
    settings = SelfForcing(updates=2, critic_updates=1, batch_size=2, steps=2, learning_rate=0.01)
    forced = model.self_force(tmp_path / "forced", settings, told=told.append)
    assert [one.update for one in told] == [1, 2]
    assert torch.equal(model.sample([3], frames=4, steps=2, sampler="renoise"), before)
    assert (forced.plan, forced.directory) == (model.plan, tmp_path / "forced")
    assert not torch.equal(forced.sample([3], frames=4, steps=2, sampler="renoise"), before)
    again = VideoModel.open(tmp_path / "forced")
    assert torch.equal(*(one.sample([3], frames=4, steps=2, sampler="renoise") for one in (forced, again)))
    with pytest.raises(ValueError, match="holds a run; give the model a directory of its own"):
        model.self_force(run, settings)


def test_a_stream_goes_on_another_day(run: Path, tmp_path: Path) -> None:
    model = VideoModel.open(run)
    settings: dict[str, Any] = {"labels": [3, 4], "steps": 2, "sampler": "renoise"}
    wanted = model.sample(**settings, frames=10)
    stream = model.stream(**settings, frames=6)
    found = list(stream)
    stream.save(tmp_path / "state")
    later = VideoModel.open(run).stream(**settings, frames=4, state=tmp_path / "state")
    found += list(later)
    assert torch.equal(torch.cat(found, dim=1), wanted) and later.frames == 10
    endless = model.stream(**settings, state=tmp_path / "state")
    assert torch.equal(next(endless), wanted[:, 6:8])
    with pytest.raises(ValueError, match="16384 frames from frame 6 on go beyond"):
        model.stream(**settings, frames=16384, state=tmp_path / "state")
    with pytest.raises(ValueError, match="go on from a state; use one of them"):
        model.stream(**settings, state=tmp_path / "state", first=wanted[:, :1])
