"""Captions that a frozen text encoder of transformers reads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY

import oneblock as ob
from oneblock.condition import Tokens, told
from oneblock.convert.text_encoder import MOST_LENGTH, TextEncoder
from oneblock.data import ImageData
from oneblock.evaluate.captions import read_captions
from oneblock.evaluate.retrieval import Judge, retrieval_judge
from oneblock.memory import step_flops
from oneblock.metrics import caption_features
from oneblock.model import ImageModel
from oneblock.plan import read_plan
from oneblock.presets import costliest_job, dry_run, training_flops, training_peak
from oneblock.presets.captions import caption_vectors
from oneblock.presets.data import plan_images
from oneblock.presets.run import make_plan

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
WORDS = ["[PAD]", "[UNK]", "a", "two", "red", "blue", "square", "squares", "left", "of"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer and width 8, which takes 6 words."""
    directory = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=6, **sizes)
    transformers.BertModel(config).save_pretrained(directory)
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(directory)
    return directory


def test_of_networks_with_several_parts_the_one_that_reads_text_is_taken(encoder: Path, tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 8}
    clip = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": len(WORDS), "max_position_embeddings": 5, "eos_token_id": 9},
        vision_config={**sizes, "image_size": 8, "patch_size": 4},
        projection_dim=4,
    )
    t5 = transformers.T5Config(vocab_size=len(WORDS), d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    for kind, config, length in ((transformers.CLIPModel, clip, 5), (transformers.T5Model, t5, MOST_LENGTH)):
        directory = tmp_path / kind.__name__
        shutil.copytree(encoder, directory)
        kind(config).save_pretrained(directory)
        opened = TextEncoder(directory)
        assert (opened.width, opened.length) == (8, length)
        found = opened.read(["two red squares", "a"], 4)
        assert found.mask.sum(1).tolist() == [3, 1] and bool(found.vectors[0, :3].any(1).all())


def data(encoder: Path) -> ImageData:
    return ImageData(data="scenes,images=24", image_size=24, text_encoder=encoder)


def test_captions_become_the_last_hidden_states(encoder: Path) -> None:
    opened = TextEncoder(encoder)
    assert (opened.width, opened.length) == (8, 6)
    captions = ["two red squares", "", "a red square left of a blue square"]
    assert opened.count(captions) == [3, 0, 8]
    found = opened.read(captions, 10)
    assert found.mask.sum(1).tolist() == [3, 0, 6] and found.cut == 1
    assert found.vectors.shape == (3, 10, 8) and bool((found.vectors[~found.mask] == 0).all())
    model = transformers.BertModel.from_pretrained(encoder).eval()
    with torch.no_grad():
        wanted = model(torch.tensor([[3, 4, 7]])).last_hidden_state[0]
    torch.testing.assert_close(found.vectors[0, :3], wanted)
    assert opened.read(captions, 2).mask.sum(1).tolist() == [2, 0, 2]
    assert opened.read(captions, 2).cut == 2


@pytest.mark.filterwarnings("ignore:.*they are cut")
def test_agreement_by_retrieval_reads_captions_with_the_encoder(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEBLOCK_DATA", str(tmp_path))
    monkeypatch.setattr(caption_features, "MOST_STEPS", 1)
    plan = make_plan(ob.ImageRecipe(**TINY | {"patch": 8}), data(encoder))[0]
    captions = ["two red squares", "", "a red square left of a blue square", *["a red square"] * 70]
    found, opened = caption_vectors(plan, captions), TextEncoder(encoder)
    assert found.shape == (73, 8) and found[1].tolist() == [0.0] * 8
    for i in (0, 2, 72):
        torch.testing.assert_close(found[i], opened.read([captions[i]], 6).vectors.sum(1)[0] / (3, 0, 6, 3)[min(i, 3)])
    train, test = (plan_images(plan, split, data(encoder)) for split in ("train", "test"))
    judge = retrieval_judge(plan, train, test, captions)
    assert isinstance(judge, Judge) and opened.fingerprint in judge.reader.name
    torch.testing.assert_close(judge.captions(captions), judge.features.texts(found))
    words = replace(plan, recipe={**plan.recipe, "text_encoder_hash": ""})
    other = retrieval_judge(words, train, test, captions)
    assert isinstance(other, Judge) and other.reader.name.startswith("words and pairs")
    assert other.features.weights_hash != judge.features.weights_hash


def test_a_run_is_told_what_the_encoder_makes_of_captions(encoder: Path, tmp_path: Path) -> None:
    recipe, out = ob.ImageRecipe(**TINY | {"patch": 8}), tmp_path / "run"
    with pytest.warns(UserWarning, match="are longer than the 6 tokens that the network reads; they are cut"):
        ob.train(recipe, data=data(encoder), out=out)
    plan = read_plan(out)
    assert {"tokens": 6, "token_width": 8, "num_classes": 0}.items() <= plan.architecture.items()
    assert "vocabulary" not in plan.architecture and plan.recipe["text_encoder"] == str(encoder)
    assert plan.recipe["text_encoder_hash"] == TextEncoder(encoder).fingerprint
    text = told(read_captions(plan, ["two red squares", ""]), Tokens)
    assert text.values.shape == (2, 6, 8) and text.mask is not None and text.mask.sum(1).tolist() == [3, 0]
    assert training_flops(plan).step(costliest_job(plan)) == step_flops(lambda: dry_run(plan, costliest_job(plan)))
    assert training_peak(plan) == training_peak(plan, real=True)

    moved = tmp_path / "moved"
    shutil.copytree(encoder, moved)
    with pytest.warns(UserWarning, match="they are cut"):
        ob.train(recipe, data=data(moved), out=out)
    assert read_plan(out).hash == plan.hash, "the same encoder at another place"
    model = ImageModel.open(out)
    images = model.sample(captions=["two red squares"], steps=2)
    assert images.equal(model.sample(captions=["two red squares"], steps=2, text_encoder=moved))
    with pytest.warns(UserWarning, match="they are cut"):
        assert model.evaluate(num_samples=0)["loss"] > 0

    values: dict[str, Any] = json.loads((out / "plan.json").read_text())
    values["recipe"]["text_encoder"] = str(tmp_path / "gone")
    gone = replace(plan, recipe=values["recipe"])
    with pytest.raises(ValueError, match=r"the text encoder of the run is not at .*gone; give its directory"):
        read_captions(gone, ["a red square"])
    assert read_captions(gone, ["a red square"], moved).tensors()[0].shape == (1, 6, 8)
    other = transformers.BertModel.from_pretrained(moved)
    other.pooler.dense.weight.data += 1
    other.save_pretrained(moved)
    shutil.move(moved, tmp_path / "other")
    with pytest.raises(ValueError, match=r"but the run was trained with .*; give that one"):
        read_captions(gone, ["a red square"], tmp_path / "other")


def test_what_is_no_text_encoder_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none does not hold a text encoder of transformers \(it is not a folder\)"):
        TextEncoder(tmp_path / "none")
    with pytest.raises(ValueError, match="does not hold a text encoder of transformers"):
        TextEncoder(tmp_path)
    with pytest.raises(ValueError, match=r"text_encoder='.*' reads captions, and digits has none; leave it out"):
        ob.train(ob.ImageRecipe(**TINY), data=ImageData(text_encoder=encoder), out=tmp_path / "run")
