import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoders import save_small
from safetensors.torch import load_file
from torch import Tensor

from oneblock.cli.__main__ import main
from oneblock.data import open_bouncing
from oneblock.evaluate.video import VideoStream
from oneblock.train.checkpoint import checkpoints

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
Ok = Callable[..., list[dict[str, Any]]]
Refused = Callable[..., str]
NET = ("--depth", "2", "--width", "16", "--heads", "2", "--blocks", "2", "--patch", "4", "--block-frames", "2")
WORK = ("--batch-size", "8", "--block-batch-size", "8", "--budget", "64", "--levels", "monotone", "--threads", "1")
DATA = ("--data", "bouncing-digits,clips=24", "--frames", "6", "--frame-size", "8")
CHEAP = ("--steps", "2", "--sampler", "euler")


def pixels(*films: Path) -> list[bytes]:
    """Of the frames of films that follow on each other."""
    found = []
    for film in films:
        with Image.open(film) as animation:
            for frame in range(animation.n_frames):
                animation.seek(frame)
                found.append(animation.convert("RGB").tobytes())
    return found


def test_train_status_merge_evaluate_sample(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    run = tmp_path / "run"
    ok("train", "video", "--out", run, *NET, *WORK, *DATA)
    states = ok("status", run, "--json")
    assert [(s["job"], s["step"], s["state"]) for s in states] == [("block-0", 4, "done"), ("block-1", 4, "done")]
    ok("merge", run, "--json")
    words = ("--num-clips", "2", "--times-longer", "2", *CHEAP, "--json")
    rows = [ok("evaluate", model, *words)[0] for model in (run, run / "model")]
    for row in rows:
        assert row.pop("frames_per_second") > 0
    assert rows[0] == rows[1] and len(rows[0]["place_error"]) == 2
    ok("evaluate", run, *words[:-1])

    film = tmp_path / "long.gif"
    (row,) = ok("sample", run, "--frames", "9", "--stream", film, "--classes", "3", "--count", "2", *CHEAP, "--json")
    assert (row["videos"], row["frames"]) == (2, 9) and row["frames_per_second"] > 0
    with Image.open(film) as found:
        assert found.n_frames == 9
    whole, parts = tmp_path / "whole.gif", [tmp_path / "0.gif", tmp_path / "1.gif"]
    for out, frames in zip((whole, *parts), ("8", "4", "4"), strict=True):
        state = () if out == whole else ("--state", tmp_path / "state")
        ok("sample", run, "--frames", frames, "--stream", out, "--classes", "3", *state, *CHEAP)
    assert pixels(*parts) == pixels(whole)
    assert "holds videos of the classes [3], but [4] are asked for" in refused(
        "sample", run, "--classes", "4", "--stream", tmp_path / "2.gif", "--state", tmp_path / "state"
    )
    picture = tmp_path / "first.png"
    Image.new("L", (20, 20), 255).save(picture)
    ok("sample", run, "--stream", tmp_path / "all.png", "--first", picture, "--classes", "1", *CHEAP)
    with Image.open(tmp_path / "all.png") as found:
        assert found.size == (6 * 66, 66)
        assert found.convert("L").crop((1, 1, 65, 65)).getextrema() == (255, 255)

    assert "is not the name of a video" in refused("sample", run, "--stream", tmp_path / "a.avi", *CHEAP)
    assert "count=0 makes nothing; use 1 or more" in refused("sample", run, "--count", "0")
    assert "cannot be used: not an image" in refused("sample", run, "--first", run / "plan.json", "--classes", "1")
    assert "fewer than block_frames=2" in refused("sample", run, "--frames", "1", "--classes", "1")


def test_a_second_stage(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    run, few = tmp_path / "run", ("--updates", "1", "--critic-updates", "1", "--batch-size", "2", "--steps", "1")
    ok("train", "video", "--out", run, *NET, *WORK, *DATA)
    (row,) = ok("self-force", run, "--out", tmp_path / "forced", *few, "--json")
    assert (row["model"], row["updates"]) == (str(tmp_path / "forced"), 1)
    words = ("--classes", "1", "--sampler", "renoise", "--steps", "1")
    ok("sample", tmp_path / "forced", *words, "--stream", tmp_path / "1.png")
    assert "holds a run" in refused("self-force", run, "--out", run, *few)
    assert "updates=0 is not allowed" in refused("self-force", run, "--out", tmp_path / "other", "--updates", "0")


def test_a_signal_ends_a_stream_with_a_file_that_can_be_read(
    tmp_path: Path, ok: Ok, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for while the second block is made; that block is written, and a later call goes on behind it."""
    run, words = tmp_path / "run", ("--frames", "8", "--classes", "3", *CHEAP)
    ok("train", "video", "--out", run, *NET, *WORK, *DATA)
    ok("sample", run, "--stream", tmp_path / "whole.gif", *words)
    made: list[int] = []
    following = VideoStream.__next__

    def signalled(stream: VideoStream) -> Tensor:
        made.append(1)
        if len(made) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return following(stream)

    monkeypatch.setattr(VideoStream, "__next__", signalled)
    parts = [tmp_path / "0.gif", tmp_path / "1.gif"]
    state = ("--state", str(tmp_path / "state"))
    assert main(["sample", str(run), "--stream", str(parts[0]), *words, *state]) == 130
    with Image.open(parts[0]) as film:
        assert film.n_frames == 4
    ok("sample", run, "--stream", parts[1], "--frames", "4", "--classes", "3", *state, *CHEAP)
    assert pixels(*parts) == pixels(tmp_path / "whole.gif")


def test_blocks_trained_by_their_own_jobs_are_those_of_one_process(tmp_path: Path, ok: Ok) -> None:
    words = (*NET, *WORK, *DATA, "--objective", "edm")
    ok("train", "video", "--out", tmp_path / "one", *words)
    ok("train", "video", "--out", tmp_path / "many", *words, "--strategy", "plan-only")
    for block in (1, 0):
        ok("job", tmp_path / "many", "--block", str(block), "--threads", "1")
    for name in ("block-0", "block-1"):
        one, many = (checkpoints(tmp_path / run / name)[-1].read_bytes() for run in ("one", "many"))
        assert one == many


def test_what_training_costs(ok: Ok) -> None:
    (row,) = ok("plan", "video", *NET, "--frames", "6", "--image-size", "8", "--channels", "1", "--json")
    names = [cost["name"] for cost in row["costs"]]
    assert names[0] == "end-to-end" and "own block, 2 blocks" in names


def test_a_comparison(tmp_path: Path, ok: Ok) -> None:
    arms = ("--arms", "end-to-end", "blockwise", "softmax")
    words = ("--seeds", "1", "--num-clips", "3", "--times-longer", "2", *CHEAP, *arms)
    (found,) = ok("compare", "video", "--out", tmp_path, *NET, *WORK, *DATA, "--branch", "0", *words, "--json")
    rows = {row["arm"]: row for row in found["runs"]}
    assert set(rows) == {"end-to-end", "blockwise", "softmax"}
    for row in rows.values():
        assert (row["place_near"], row["place_far"]) == (row["place_error"][0], row["place_error"][-1])
    assert {Path(picture).name for picture in found["pictures"]} >= {"training.png", "drift.png", "rollouts.png"}
    kept = load_file(tmp_path / rows["softmax"]["run"] / "rollouts.safetensors")
    assert kept["made"].shape == kept["true"].shape == (3, 12, 1, 8, 8)
    assert torch.equal(kept["made"][:, :2], kept["true"][:, :2])
    true = open_bouncing("bouncing-digits,clips=24", "test", size=8).render(12)
    assert torch.equal(kept["true"], true[:3])
    plans = {arm: json.loads((tmp_path / row["run"] / "plan.json").read_text()) for arm, row in rows.items()}
    assert plans["softmax"]["architecture"]["attention"] == "softmax"
    ok("compare", "video", "--out", tmp_path, *NET, *WORK, *DATA, "--branch", "0", *words)


def test_the_latents_of_an_autoencoder(
    tmp_path: Path, ok: Ok, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    run, wan = tmp_path / "run", save_small(tmp_path / "wan", "AutoencoderKLWan")
    words = (*NET, "--patch", "1", *WORK, "--data", "bouncing-digits,clips=24", "--frames", "17", "--frame-size", "8")
    ok("train", "video", "--out", run, *words, "--autoencoder", wan, "--strategy", "plan-only")
    for block in ("0", "1"):
        ok("job", run, "--block", block, "--threads", "1", "--autoencoder", wan)
    assert len(list((tmp_path / ".cache" / "latents").iterdir())) == 1
    ok("evaluate", run, "--autoencoder", wan, "--num-clips", "2", "--times-longer", "1", *CHEAP)
    film, picture = tmp_path / "film.gif", tmp_path / "first.png"
    Image.new("L", (20, 20), 255).save(picture)
    sample = ("sample", run, "--classes", "3", "--stream", film, *CHEAP)
    (row,) = ok(*sample, "--frames", "9", "--first", picture, "--autoencoder", wan, "--json")
    assert row["frames"] == 9
    whole, parts = tmp_path / "whole.gif", [tmp_path / "0.gif", tmp_path / "1.gif"]
    for out, frames in zip((whole, *parts), ("21", "13", "8"), strict=True):
        state = () if out == whole else ("--state", tmp_path / "state")
        ok(*sample[:4], "--stream", out, "--frames", frames, "--autoencoder", wan, *state, *CHEAP)
    assert pixels(*parts) == pixels(whole)
    assert "8 frames do not fit the autoencoder" in refused(*sample, "--frames", "8", "--autoencoder", wan)
    assert "the plan denoises the latents of autoencoder" in refused(*sample)
    assert "use 13 or 17 frames" in refused("train", "video", "--out", tmp_path / "other", "--autoencoder", wan)
    arms = ("--arms", "blockwise", "--seeds", "1", "--branch", "0", "--num-clips", "2", "--times-longer", "1", *CHEAP)
    out = tmp_path / "compare"
    (found,) = ok("compare", "video", "--out", out, *words, "--autoencoder", wan, *arms, "--json")
    kept = load_file(out / found["runs"][0]["run"] / "rollouts.safetensors")
    assert kept["made"].shape == kept["true"].shape == (3, 17, 1, 8, 8)


def test_whole_videos_of_an_autoencoder_that_does_not_stream(tmp_path: Path, ok: Ok, refused: Refused) -> None:
    run, magvit = tmp_path / "run", save_small(tmp_path / "magvit", "AutoencoderKLMagvit")
    data = ("--data", "bouncing-digits,clips=16", "--frames", "9", "--frame-size", "16", "--channels", "3")
    ok("train", "video", "--out", run, *NET, "--patch", "1", *WORK, *data, "--autoencoder", magvit, "--no-cache")
    film = tmp_path / "film.gif"
    words = ("sample", run, "--classes", "3", "--frames", "13", "--stream", film, "--autoencoder", magvit, *CHEAP)
    (row,) = ok(*words, "--json")
    assert row["frames"] == 13
    with Image.open(film) as found:
        assert found.n_frames == 13
    assert "decodes whole clips, and not piece by piece" in refused(*words, "--state", tmp_path / "state")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "video", "--out", "run", "--window", "0"), "window=0 is not allowed; use a whole number, 1 or more"),
        (("train", "video", "--out", "run", *DATA, "--patch", "3"), "patch=3 does not divide frames of 8 x 8 pixels"),
        (("train", "video", "--out", "run", "--data", "digits"), "data='digits' is unknown; bouncing-digits"),
        (("train", "video", "--out", "run", *DATA, "--block-frames", "7"), "fewer than block_frames=7"),
        (("compare", "video", "--out", "c", *DATA, *NET, "--steps", "0"), "steps=0 is not allowed"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*words)
