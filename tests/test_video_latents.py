"""Video in the latents of a frozen autoencoder: from clips to a run, to videos and to scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoders import save_small

import oneblock as ob
from oneblock.convert.clips import ClipAutoencoder, open_clip_codec
from oneblock.convert.from_diffusers import Autoencoder
from oneblock.data import EncodedSource, VideoData, clip_codec
from oneblock.evaluate.video import video_losses
from oneblock.experiment.base import Cell
from oneblock.experiment.video import VideoExperiment
from oneblock.model import VideoModel
from oneblock.presets import ImageFacts, fit, plan_source
from oneblock.presets.image import image_shape
from oneblock.presets.splits import plan_splits
from oneblock.presets.video import VideoRecipe

pytest.importorskip("sklearn")
pytest.importorskip("diffusers")
RECIPE = VideoRecipe(
    depth=2, width=16, heads=2, patch=1, blocks=2, budget=4 * 8 * 2, batch_size=8, block_batch_size=8, block_frames=1,
    levels="monotone",
)  # fmt: skip
CHEAP: dict[str, Any] = {"steps": 2, "sampler": "euler"}
FRAMES = {"AutoencoderKL": 3, "AutoencoderKLWan": 9}
"""Of a clip; both have three latent frames."""


class Trained:
    """A run on the latents of a small autoencoder of ``kind``."""

    def __init__(self, where: Path, kind: str) -> None:
        self.kind, self.autoencoder, self.run = kind, save_small(where / "autoencoder", kind), where / "run"
        self.data = self.clips(self.autoencoder)
        ob.train(RECIPE, data=self.data, out=self.run)
        self.model = VideoModel.open(self.run)
        self.codec = self.model.codec(self.autoencoder)

    def clips(self, autoencoder: Path | None, **changes: Any) -> VideoData:
        given = {"data": "bouncing-digits,clips=24", "frames": FRAMES[self.kind], "frame_size": 8}
        return VideoData(**{**given, "autoencoder": autoencoder, **changes})


@pytest.fixture(scope="module", params=["AutoencoderKL", "AutoencoderKLWan"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    where = tmp_path_factory.mktemp("latents")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONEBLOCK_DATA", str(where))
        return Trained(where, request.param)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))


def test_a_plan_is_of_latents_and_names_their_autoencoder(trained: Trained) -> None:
    plan = trained.model.plan
    assert plan.recipe["autoencoder"] == trained.codec.fingerprint() != ""
    assert image_shape(plan) == {"AutoencoderKL": (3, 3, 4, 4), "AutoencoderKLWan": (3, 4, 2, 2)}[trained.kind]


def test_latents_are_made_once(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, encoded = trained.model.plan, []
    for kind in (Autoencoder, ClipAutoencoder):
        whole = kind.encode
        monkeypatch.setattr(kind, "encode", lambda self, x, whole=whole: encoded.append(len(x)) or whole(self, x))
    first = plan_source(plan, trained.data).batch(0, 8, 0)
    assert sum(encoded) == 24 * (3 if trained.kind == "AutoencoderKL" else 1)
    assert [path.suffix for path in (tmp_path / ".cache" / "latents").iterdir()] == [".safetensors"]
    encoded.clear()
    again = plan_source(plan, trained.data).batch(0, 8, 0)
    assert not encoded and torch.equal(first.values, again.values)
    plan_source(plan, trained.clips(trained.autoencoder, cache=False)).batch(0, 8, 0)
    assert encoded


def test_clips_of_a_plan_need_only_its_autoencoder(trained: Trained) -> None:
    """Frames, size and channels of pixels follow from those of the latents; also where a verb for all tasks asks."""
    plan = trained.model.plan
    for data in (VideoData(data="", autoencoder=trained.autoencoder),
                 ob.ImageData(data="", autoencoder=trained.autoencoder)):  # fmt: skip
        source = plan_source(plan, data)
        assert isinstance(source, EncodedSource) and source.images.shape == (FRAMES[trained.kind], 1, 8, 8)
        assert source.shape == image_shape(plan)


def test_samples_are_decoded_and_streams_are_the_same(trained: Trained) -> None:
    model, autoencoder = trained.model, trained.autoencoder
    videos = model.sample([3, 4], autoencoder=autoencoder, **CHEAP)
    assert videos.dtype == torch.uint8 and tuple(videos.shape) == (2, FRAMES[trained.kind], 1, 8, 8)
    longer = 6 if trained.kind == "AutoencoderKL" else 21
    whole = model.sample([3, 4], frames=longer, autoencoder=trained.codec, **CHEAP)
    blocks = list(model.stream([3, 4], frames=longer, autoencoder=autoencoder, **CHEAP))
    assert [block.shape[1] for block in blocks] == {"AutoencoderKL": [1] * 6, "AutoencoderKLWan": [1, *[4] * 5]}[
        trained.kind
    ]
    torch.testing.assert_close(torch.cat(blocks, dim=1).int(), whole.int(), rtol=0, atol=1)
    assert whole.float().std() > 0


def test_a_stream_goes_on_another_day(trained: Trained, tmp_path: Path) -> None:
    model, later = trained.model, 4
    first = 2 if trained.kind == "AutoencoderKL" else 5
    asked: dict[str, Any] = {"labels": [3], "autoencoder": trained.codec, **CHEAP}
    whole = torch.cat(list(model.stream(**asked, frames=first + later)), dim=1)
    stream = model.stream(**asked, frames=first)
    made = list(stream)
    stream.save(tmp_path / "state")
    rest = model.stream(**asked, frames=later, state=tmp_path / "state")
    assert torch.equal(torch.cat([*made, *rest], dim=1), whole)
    assert rest.frames == first + later
    if trained.kind == "AutoencoderKLWan":
        with pytest.raises(ValueError, match=r"3 frames do not fit .* takes 4 k of them after others; use 4 frames"):
            model.stream(**asked, frames=3, state=tmp_path / "state")


def test_first_frames_are_encoded(trained: Trained) -> None:
    given = 1 if trained.kind == "AutoencoderKL" else 5
    first = torch.randint(256, (1, given, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    videos = trained.model.sample([3], first=first, autoencoder=trained.codec, **CHEAP)
    through = trained.codec.decode(trained.codec.encode(first.float() / 127.5 - 1))
    torch.testing.assert_close(videos[:, :given], ((through + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    with pytest.raises(ValueError, match=r"first is torch.uint8 \(1, 1, 1, 4, 4\); give torch.uint8 \(n, frames, 1, 8"):
        trained.model.sample([3], first=first[:, :1, :, :4, :4], autoencoder=trained.codec)


def test_frames_that_do_not_fit_are_refused(trained: Trained, tmp_path: Path) -> None:
    if trained.kind == "AutoencoderKL":
        pytest.skip("every number of frames fits")
    model, message = trained.model, r"8 frames do not fit the autoencoder, which takes 1 \+ 4 k of them; use 5 or 9"
    with pytest.raises(ValueError, match=message):
        ob.train(RECIPE, data=trained.clips(trained.autoencoder, frames=8), out=tmp_path / "run")
    for make in (model.sample, model.stream):
        with pytest.raises(ValueError, match=message):
            make([3], frames=8, autoencoder=trained.codec)
    with pytest.raises(ValueError, match=r"3 frames do not fit .* use 1 or 5 frames"):
        model.sample([3], first=torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8), autoencoder=trained.codec)


def test_scores_are_of_latents_and_of_decoded_frames(trained: Trained) -> None:
    model = trained.model
    data = VideoData(data="", autoencoder=trained.autoencoder)
    row = model.evaluate(data, num_clips=3, times_longer=2, **CHEAP)
    test = plan_splits(model.plan, data).test
    held_out = test.images.samples()
    assert held_out.labels is not None
    losses = video_losses(
        model.denoiser, model.plan, clip_codec(test.codec).encode(held_out.values), held_out.labels,
        model.plan.partition,
    )  # fmt: skip
    assert row["band_losses"] == pytest.approx(losses)
    pixels = {"AutoencoderKL": 6 - 1, "AutoencoderKLWan": 21 - 1}[trained.kind]
    assert len(row["place_errors"]) == pixels and len(row["place_error"]) == len(row["still_error"]) == 2
    lengths = {"AutoencoderKL": (3, 6), "AutoencoderKLWan": (9, 21)}[trained.kind]
    parts = [row["place_errors"][: lengths[0] - 1], row["place_errors"][lengths[0] - 1 : lengths[1] - 1]]
    assert row["place_error"] == pytest.approx([sum(part) / len(part) for part in parts])
    assert all(0 < error < 12 for error in row["place_errors"]), "pixels of frames of 8 x 8"
    floor = ob.VideoData(data="bouncing-digits,clips=24", frames=FRAMES[trained.kind], frame_size=8)
    assert row["features"] and row["frechet_floor"] == pytest.approx(_floor(floor))


def _floor(data: VideoData) -> float:
    from oneblock.data import load_videos
    from oneblock.metrics.frechet import frechet_distance, moments
    from oneblock.metrics.motion import frame_pairs

    real = load_videos(data.data, "test", frames=data.frames, size=data.frame_size).clips
    return frechet_distance(*(moments(frame_pairs(part)) for part in (real[: len(real) // 2], real[len(real) // 2 :])))


def test_a_run_needs_its_own_autoencoder(trained: Trained, tmp_path: Path) -> None:
    model, other = trained.model, save_small(tmp_path / "other", trained.kind, seed=1)
    calls = [
        lambda place: model.sample([3], autoencoder=place),
        lambda place: model.stream([3], autoencoder=place),
        lambda place: model.evaluate(VideoData(data="", autoencoder=place)),
        lambda place: ob.train(RECIPE, data=trained.clips(place), out=trained.run),
    ]
    for call in calls[:3]:
        with pytest.raises(ValueError, match=r"denoises the latents of autoencoder .*, but --autoencoder gives pixels"):
            call(None)
        with pytest.raises(
            ValueError, match=r"denoises the latents .* --autoencoder gives the latents of .* or none for"
        ):
            call(other)
    with pytest.raises(ValueError, match=r"denoises the latents .* --autoencoder gives the latents of"):
        calls[0](open_clip_codec(other))
    for place in (None, other):
        with pytest.raises(ValueError, match="another"):
            calls[3](place)
    experiment = VideoExperiment()
    known = experiment.open(RECIPE, trained.data, trained.clips(other))
    with pytest.raises(ValueError, match=r"denoises the latents .* --autoencoder gives the latents of"):
        experiment.check({Cell(arm="end-to-end", budget="1", seed=0): [RECIPE.plan(known.facts)]}, known)
    pixels = VideoData(data="bouncing-digits,clips=24", frames=9, frame_size=8)
    ob.train(RECIPE, data=pixels, out=tmp_path / "pixels", strategy="plan-only")
    with pytest.raises(ValueError, match="the plan denoises pixels, but --autoencoder gives the latents"):
        plan_source(ob.read_plan(tmp_path / "pixels"), VideoData(data="", autoencoder=other))


def test_a_report_says_that_the_autoencoder_is_not_there(trained: Trained, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    said = ob.report(trained.run, out=tmp_path / "page.html", samples=1).read_text("utf-8")
    assert "the run denoises latents, and its directory does not hold their autoencoder" in said


def test_what_is_counted_are_latents(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    class SeenError(Exception):
        pass

    shapes = []

    def ways(recipe: VideoRecipe, facts: ImageFacts, backbone: None) -> None:
        shapes.append(facts.shape)
        raise SeenError

    monkeypatch.setattr(fit, "ways", ways)
    for asked in (
        {"frames": FRAMES[trained.kind], "image_size": 8, "channels": 1, "autoencoder": trained.autoencoder},
        {"data": trained.data},
    ):
        with pytest.raises(SeenError):
            fit.cost(RECIPE, **asked)  # type: ignore[arg-type]
    assert shapes == [image_shape(trained.model.plan)] * 2
    with pytest.raises(ValueError, match="is of clips, and the recipe is not for video; give the size and channels"):
        fit.cost(ob.ImageRecipe(), autoencoder=trained.autoencoder)


def test_one_that_decodes_whole_clips_makes_whole_videos(tmp_path: Path) -> None:
    path = save_small(tmp_path / "autoencoder", "AutoencoderKLMagvit")
    data = VideoData(data="bouncing-digits,clips=16", frames=9, frame_size=16, channels=3, autoencoder=path)
    ob.train(RECIPE, data=data, out=tmp_path / "run")
    model = VideoModel.open(tmp_path / "run")
    assert tuple(model.sample([3], frames=13, autoencoder=path, **CHEAP).shape) == (1, 13, 3, 16, 16)
    with pytest.raises(ValueError, match="AutoencoderKLMagvit decodes whole clips, and not piece by piece"):
        model.stream([3], frames=13, autoencoder=path)
    row = model.evaluate(VideoData(data="", autoencoder=path), num_clips=2, times_longer=2, **CHEAP)
    assert len(row["place_errors"]) == 21 - 1
