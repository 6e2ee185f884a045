"""Generators that are told captions: plans, training, samples, scores, and what is refused."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny import TINY, last_files, tiny_plan
from torch import Tensor, nn

import oneblock as ob
from oneblock.condition import Condition, Tokens, told
from oneblock.data import EncodedSource, ImageData, MemorySource, WordTable, captions_of, known_words, load_captions
from oneblock.data.progress import listening
from oneblock.data.scenes import captioned_scenes
from oneblock.evaluate.audit import audit_images
from oneblock.evaluate.auditing import Audited, Auditing
from oneblock.evaluate.captions import captions_in_turn, read_captions, scored_captions
from oneblock.evaluate.images import Sampling, sample_images
from oneblock.evaluate.levels import passage
from oneblock.experiment.images import SAMPLES_FILE, SCORES, ImageExperiment
from oneblock.experiment.summary import summaries
from oneblock.memory import step_flops
from oneblock.model import ImageModel
from oneblock.plan import Plan, differences, read_plan
from oneblock.presets import ImageFacts, ImageRecipe, blockwise, costliest_job, dry_run, training_flops, training_peak
from oneblock.presets.captions import MOST_TOKENS, example_captions, word_table
from oneblock.presets.data import plan_images
from oneblock.presets.image import empty_images, image_task
from oneblock.presets.run import make_plan
from oneblock.report.captions import agreement_table
from oneblock.report.images import _names
from oneblock.report.scores import image_tables
from oneblock.train.machine import Machine

SCENES = "scenes,images=24"
DATA = ImageData(data=SCENES, image_size=24)
SETTINGS = TINY | {"patch": 8}
MACHINE = Machine(threads=1)


def recipe(**changes: Any) -> ImageRecipe:
    return ImageRecipe(**SETTINGS | changes)


def scene_plan(**changes: Any) -> Plan:
    return make_plan(recipe(**changes), DATA)[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two blocks on scenes."""
    out = tmp_path_factory.mktemp("told") / "run"
    ob.train(recipe(), data=DATA, out=out)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> ImageModel:
    return ImageModel.open(run)


def test_a_plan_holds_what_any_machine_needs_to_tell_its_network_a_caption(run: Path) -> None:
    plan = read_plan(run)
    assert plan.classes == ()
    assert {"num_classes": 0, "tokens": 8, "vocabulary": 19}.items() <= plan.architecture.items()
    table = word_table(plan)
    assert table.words == tuple(sorted(table.words)) and "triangles" in table.words and table.size == 19
    assert len(cast(list[str], plan.recipe["captions"])) == 8
    read = told(read_captions(plan, ["two red squares", ""]), Tokens)
    assert read.mask is not None and read.mask.sum(1).tolist() == [3, 0]
    assert [table.words[i - 1] for i in read.values[0, :3].tolist()] == ["two", "red", "squares"]


def test_the_trunk_is_that_of_a_generator_that_is_told_classes() -> None:
    labels = make_plan(recipe(), ImageData(data="digits", image_size=24, channels=3))[0]
    captions = scene_plan()
    one, other = (dict(blockwise(plan).denoiser(0).backbone.named_parameters()) for plan in (labels, captions))
    shapes = [{name: tuple(p.shape) for name, p in some.items()} for some in (one, other)]
    differ = {name for name in {*one, *other} if shapes[0].get(name) != shapes[1].get(name)}
    assert differ == {"stem.label.weight", "stem.token.weight", "stem.absent"}
    assert differences(labels, captions) == [
        *("architecture.num_classes", "architecture.tokens", "architecture.vocabulary"),
        *("recipe.captions", "recipe.data", "recipe.fingerprint", "recipe.words"),
    ]


@pytest.mark.parametrize("changes", [{}, {"shared": "synced"}, {"carry": 0.5}])
def test_the_count_is_that_of_real_tensors(changes: dict[str, Any]) -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    small = scene_plan(**changes)
    assert training_peak(small) == training_peak(small, real=True)
    assert training_flops(small).step(costliest_job(small)) == step_flops(lambda: dry_run(small, costliest_job(small)))
    batch = empty_images(small, 3, 0)
    assert [tuple(t.shape) for t in batch.condition.tensors()] == [(3, 8), (3, 8)]


def test_captions_cost_more_than_classes() -> None:
    pytest.importorskip("torch.distributed._tools.mem_tracker")
    captions, labels = scene_plan(), tiny_plan(facts=ImageFacts(shape=(3, 24, 24), num_classes=3), patch=8)
    assert training_flops(captions).layer / training_flops(labels).layer == pytest.approx((9 + 8) / 9, rel=0.1)


def test_each_image_is_told_its_own_caption() -> None:
    plan, source = make_plan(recipe(label_dropout=0.5), DATA)
    images = cast(MemorySource, cast(EncodedSource, source).images).images
    task = image_task(plan, images.classes)
    samples = source.batch(0, 64, 0)
    batch = task.draw(samples, torch.ones(64), 0, torch.Generator().manual_seed(0))
    assert samples.labels is not None
    wanted = WordTable(word_table(plan).words, 8).read([images.classes[label] for label in samples.labels.tolist()])
    found = told(batch.condition, Tokens)
    assert found.mask is not None
    kept = found.mask.any(1)
    assert 20 < int(kept.sum()) < 44, "half are dropped whole"
    assert found.values[kept].equal(wanted.ids[kept]) and found.mask[kept].equal(wanted.mask[kept])


def test_what_is_told_decides_what_is_made(model: ImageModel) -> None:
    captions = ["two red squares left of a blue circle", "a blue circle left of two red squares"]
    for parameter in model.denoiser.block(0).backbone.parameters():  # a trained head answers more than zeros
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    told = read_captions(model.plan, captions)
    denoise = model.denoiser.block(0)
    z, sigma = torch.randn(1, 3, 24, 24).expand(2, -1, -1, -1), torch.full((2,), 5.0)
    with torch.no_grad():
        first, second = denoise(z, sigma, told)
        assert (first - second).abs().max() > 1e-4, "the same words in another order"
        nothing = denoise(z, sigma, told.null())
        assert nothing[0].equal(nothing[1])
        assert denoise(z, sigma, read_captions(model.plan, ["", ""])).equal(nothing)


def test_a_run_goes_on_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ob.train(recipe(), data=DATA, out=out, strategy="plan-only")
    assert (out / "plan.json").read_bytes() == (run / "plan.json").read_bytes()
    ob.run_job(out, 1)
    ob.train(recipe(), data=DATA, out=out)
    assert last_files(out) == last_files(run)


@pytest.mark.parametrize(
    "changes", [{"branch": 0.5}, {"carry": 0.5}, {"shared": "synced"}, {"update": "evolution", "population": 4}]
)
def test_captions_go_with_every_way_to_train(changes: dict[str, Any], tmp_path: Path) -> None:
    ob.train(recipe(**changes), data=DATA, out=tmp_path / "run")
    images = ImageModel.open(tmp_path / "run").sample(captions=["a red square"], steps=2, guidance=2.0)
    assert images.shape == (1, 3, 24, 24)


def test_samples_follow_from_their_caption_and_seed(model: ImageModel) -> None:
    captions = ["a red square", "two blue circles above a green triangle"]
    both = model.sample(captions=captions, steps=2)
    assert both.shape == (2, 3, 24, 24) and both.dtype == torch.uint8
    assert model.sample(captions=captions[:1], steps=2).equal(both[:1])
    shown = captions_in_turn(model.plan, 3)
    assert model.sample(count=3, steps=2).equal(model.sample(captions=shown, steps=2))
    assert len(model.sample(steps=2)) == 8
    seen = passage(model.denoiser, model.plan, 3, 2)
    assert seen.captions == tuple(shown) and seen.labels is None and seen.answers.shape == (4, 3, 3, 24, 24)


def test_scores_stand_beside_chance_and_real_images(model: ImageModel) -> None:
    row = model.evaluate(num_samples=12, steps=2)
    assert row["protocol"]["conditions"] == "captions-in-order"
    assert set(row["caption_agreement_real"].values()) == {1.0}
    assert set(row["caption_agreement"]) == {"number", "colours", "shapes", "relation", "all_of_it"}
    assert 0 <= row["caption_agreement_chance"]["number"] <= 1
    assert row == json.loads(json.dumps(row))
    lines = dict(image_tables(row, model.plan.partition)[1].rows)
    assert str(lines["caption_agreement of all_of_it / by chance / of real images"]).endswith(" / 1.0000")
    losses = model.evaluate(num_samples=0)
    assert losses["loss"] == row["loss"] and "caption_agreement" not in losses


def test_a_generator_that_draws_the_held_out_pictures_agrees_fully(
    model: ImageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which caption each sample is told, and which it is checked against."""
    test = plan_images(model.plan, "test")
    table, held = word_table(model.plan), test.first()

    def drawn(denoiser: Any, plan: Plan, asked: Condition, *args: Any, **kwargs: Any) -> Tensor:
        told_ids = told(asked, Tokens).values
        known = table.read([held.classes[label] for label in held.labels.tolist()]).ids
        return torch.stack([held.images[int((known == row).all(1).nonzero()[0, 0])] for row in told_ids])

    monkeypatch.setattr("oneblock.evaluate.images.sample_images", drawn)
    row = model.evaluate(num_samples=8)
    assert row["caption_agreement"]["all_of_it"] == 1
    assert row["caption_agreement_chance"]["all_of_it"] < 1
    assert scored_captions(model.plan, test, 8)[6] == scored_captions(model.plan, test, 8)[0], "six held-out pictures"


def folder(place: Path, captions: list[str], count: int = 24) -> Path:
    """A folder of scenes with captions in a table, in the place of their own if ``captions`` are given."""
    scenes = captioned_scenes(count, 24, seed=3)
    place.mkdir(parents=True)
    lines = []
    for i, (image, label) in enumerate(zip(scenes.images, scenes.labels.tolist(), strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
        caption = captions[i % len(captions)] if captions else scenes.classes[label]
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (place / "metadata.jsonl").write_text("\n".join(lines))
    return place


def test_folders_are_trained_on_and_long_captions_are_cut_and_said(tmp_path: Path) -> None:
    long = " ".join(f"word{i}" for i in range(MOST_TOKENS + 6))
    data = ImageData(data=f"captions:{folder(tmp_path / 'pictures', ['a cat', long, 'a dog'])}", image_size=24)
    plan, source = make_plan(recipe(), data)
    assert plan.architecture["tokens"] == MOST_TOKENS
    assert make_plan(recipe(caption_tokens=2), data)[0].architecture["tokens"] == 2
    heard: list[str] = []
    with listening(note=heard.append):
        image_task(plan, cast(EncodedSource, source).classes)
    assert heard == ["1 of 3 captions are longer than the 64 words that the network reads; they are cut"]
    out = tmp_path / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ob.train(recipe(), data=data, out=out)
        row = ImageModel.open(out).evaluate(num_samples=0)
    assert row["loss"] > 0
    assert load_captions(tmp_path / "pictures", "train", 24).captioned


def test_a_dataset_of_images_and_captions_is_trained_on(tmp_path: Path) -> None:
    scenes = captioned_scenes(20, 24, seed=4)
    items = [(image, scenes.classes[label]) for image, label in zip(scenes.images, scenes.labels.tolist(), strict=True)]
    done = ob.train(recipe(), data=items[:12], out=tmp_path / "run")
    assert word_table(done.plan).words == known_words([caption for _, caption in items[:12]])
    row = ImageModel.open(tmp_path / "run").evaluate(items[12:], train=items[:12], num_samples=8, steps=2)
    assert set(row["caption_agreement_real"].values()) == {1.0}


def test_unknown_words_are_said_and_no_error(model: ImageModel) -> None:
    with pytest.warns(UserWarning, match="words that no training caption has: purple, very"):
        images = model.sample(captions=["a very purple square"], steps=2)
    assert len(images) == 1


def test_what_does_not_go_together_is_refused(model: ImageModel, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels are given, but the model is told captions; give captions="):
        model.sample([0, 1])
    with pytest.raises(ValueError, match="labels are given beside captions"):
        model.sample([0], captions=["a red square"])
    with pytest.raises(ValueError, match="count=2 is given beside captions"):
        model.sample(captions=["a red square"], count=2)
    for wrong in ([], "a red square", [3]):
        with pytest.raises(ValueError, match="are not captions; give one text or more, in a list"):
            model.sample(captions=cast(Any, wrong))
    with pytest.raises(ValueError, match=r"captions=.*'a cat'.* are given, but this model was trained without"):
        read_captions(tiny_plan(), ["a cat"])
    with pytest.raises(ValueError, match="labels are a Tensor, but the plan needs captions"):
        sample_images(model.denoiser, model.plan, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="the data have no captions, which the network is told; use captions:DIR"):
        model.evaluate(ImageData(data="digits", image_size=24, channels=3), num_samples=0)
    with pytest.raises(ValueError, match="scenes has captions for labels, not classes; train an ImageRecipe"):
        make_plan(ob.ClassifyRecipe(), SCENES)
    with pytest.raises(ValueError, match="caption_tokens=3 is for data with captions"):
        tiny_plan(caption_tokens=3)
    with pytest.raises(ValueError, match="there are 2 captions for 2 labels; give one for each label, and a last one"):
        replace(image_task(model.plan), num_classes=2, captions=read_captions(model.plan, ["a", "red"]))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"has no captions; write metadata\.jsonl"):
        ob.train(recipe(), data=f"captions:{empty}", out=tmp_path / "run")


def test_a_teacher_must_read_captions_in_the_same_way(model: ImageModel, tmp_path: Path) -> None:
    done = ob.train(recipe(seed=1), data=DATA, out=tmp_path / "run", teacher=model)
    assert done.plan.recipe["teacher"] == model.plan.hash
    other = ImageData(data="scenes,images=4", image_size=24)
    with pytest.raises(ValueError, match="the captions of the run are read in another way than those of its teacher"):
        ob.train(recipe(), data=other, out=tmp_path / "other", teacher=model)


def test_a_comparison_trains_on_captions_and_shows_them(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    experiment = ImageExperiment(num_samples=6, sampling=Sampling(steps=2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # features of a general network may not be installed
        (row,) = ob.compare(
            experiment, out=tmp_path, data=DATA, recipe=recipe(), arms=["blockwise"], seeds=1, machine=MACHINE
        ).rows
    assert row["caption_agreement_real"]["all_of_it"] == 1
    (line,) = agreement_table([row], summaries([row], SCORES))[0].rows
    checked, nearest = row["caption_agreement"]["all_of_it"], row["caption_retrieval"]
    assert line[2:4] == (f"{100 * checked:.1f} %", f"{100 * nearest:.1f} %")
    samples = load_file(tmp_path / row["run"] / SAMPLES_FILE)["images"]
    assert samples.shape == (8 * 8, 3, 24, 24)
    assert _names(tmp_path / row["run"]) == example_captions(read_plan(tmp_path / row["run"]))


def test_a_network_can_be_told_nothing_of_captions(tmp_path: Path) -> None:
    plan = scene_plan(conditional=False)
    assert "tokens" not in plan.architecture and "words" not in plan.recipe and not image_task(plan).num_classes


class Mixed(nn.Module):
    """A layer of a network of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = h + self.mix(h) * modulation
        return out


class Words(nn.Module):
    """What it makes of captions."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(19, 1)

    def forward(self, z: Tensor, noise: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        text = told(condition, Tokens)
        assert text.mask is not None
        return z, (self.token(text.values) * text.mask[..., None]).sum(1)[..., None, None]


class Head(nn.Module):
    def forward(self, h: Tensor, modulation: Tensor) -> Tensor:
        return h


class Mine(nn.Module):
    """A network of one's own that is told captions."""

    def __init__(self, layers: range) -> None:
        super().__init__()
        self.stem, self.head = Words(), Head()
        self.layers = nn.ModuleDict({str(i): Mixed() for i in layers})


def test_a_network_of_ones_own_is_told_captions(tmp_path: Path) -> None:
    done = ob.train(recipe(), data=DATA, backbone=Mine, out=tmp_path / "run")
    assert {"tokens": 8, "vocabulary": 19, "num_classes": 0}.items() <= done.plan.architecture.items()
    model = ImageModel.open(tmp_path / "run", backbone=Mine)
    assert model.sample(captions=["a red square", ""], steps=2).shape == (2, 3, 24, 24)


def test_words_of_another_network_are_refused(run: Path, tmp_path: Path) -> None:
    values = json.loads((run / "plan.json").read_text())
    values["recipe"]["words"] = values["recipe"]["words"][1:]
    (tmp_path / "plan.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"recipe\.words has 17 words, but architecture\.vocabulary=19"):
        ImageModel.open(tmp_path)


def test_an_audit_tells_chains_the_captions_of_training_images() -> None:
    images = ImageData(data="scenes,images=160", image_size=24)
    plan, _ = make_plan(recipe(blocks=1), images)
    train, test = (cast(EncodedSource, plan_images(plan, split, images)) for split in ("train", "test"))
    asked: list[Tokens] = []

    def denoise(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        asked.append(told(condition, Tokens))
        return z / 2

    auditing = Auditing(chains=20, cycles=2, cycle_steps=2, start_steps=2, amplitudes=(0.5,), unit="sigma")
    audit_images(denoise, plan, Audited(train, test), auditing)
    captions = captions_of(train)
    assert captions is not None
    wanted = read_captions(plan, [captions[label] for label in train.first(20).labels.tolist()])
    assert any(one.values[:20].equal(wanted.values) for one in asked)
    other = EncodedSource(MemorySource(captioned_scenes(40, 24, seed=9)), test.codec)
    with pytest.raises(ValueError, match="scenes has other captions than scenes, so that their labels do not agree"):
        audit_images(denoise, plan, Audited(train, other), auditing)
