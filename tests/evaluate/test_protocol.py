"""Protocols: read back from JSON as they were, and never mixed."""

import hashlib
import json
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from tiny import IMAGES, tiny_plan

from oneblock.condition import Condition
from oneblock.data import EncodedSource, MemorySource, Pixels, synthetic_images
from oneblock.evaluate.curves import sampling_curve
from oneblock.evaluate.device import dtype_of
from oneblock.evaluate.images import Sampling, evaluate_images
from oneblock.evaluate.protocol import LossProtocol, Protocol, check_same, differences, hash_of_images, read_protocol
from oneblock.guidance import ClassifierFree, Ensemble
from oneblock.metrics.features import extractor_for, extractor_hash, weights_path

SOURCE = EncodedSource(MemorySource(IMAGES), Pixels())
MADE = Protocol(
    num_samples=24,
    conditions="classes-in-turn",
    sampler="euler",
    grid="karras",
    steps=4,
    guidance=1.5,
    guidance_interval=(0.1, 2.0),
    state="private",
    sample_seed=3,
    weights="averaged",
    dtype="float32",
    extractor="digits-cnn",
    extractor_hash="0123456789abcdef",
    reference="digits",
    reference_hash="fedcba9876543210",
    num_reference=48,
)
LOSS = LossProtocol(
    weights="averaged", dtype="float32", held_out="digits", held_out_hash="ab", num_held_out=9, edges=(8.0, 1.0, 0.1)
)
OTHERS: dict[str, Any] = {
    "num_samples": 25,
    "conditions": "none",
    "guidance": 2.0,
    "guidance_interval": (0.1, 3.0),
    "weights": "raw",
    "steps": 5,
    "sample_seed": 4,
    "num_reference": 49,
    "version": 2,
}


def by_class(z: torch.Tensor, sigma: torch.Tensor, condition: Condition) -> torch.Tensor:
    return 0 * z + sigma.mean()


@pytest.mark.parametrize("protocol", [MADE, LOSS], ids=["images", "loss"])
def test_a_protocol_comes_back_from_json_as_it_was(protocol: Any) -> None:
    back = read_protocol(json.loads(json.dumps(protocol.as_row())), type(protocol))
    assert back == protocol and back.hash == protocol.hash and hash(back) == hash(protocol)
    check_same({"one": protocol, "two": back})


@pytest.mark.parametrize("name", [field.name for field in fields(Protocol) if field.name != "reference"])
def test_every_field_tells_protocols_apart_and_is_named(name: str) -> None:
    other = replace(MADE, **{name: OTHERS.get(name, "another")})
    assert other != MADE and other.hash != MADE.hash and differences(MADE, other) == [name]
    with pytest.raises(
        ValueError, match=rf"^{name}=.* in the protocol of ours, but .* in that of theirs; their scores"
    ):
        check_same({"ours": MADE, "same": replace(MADE), "theirs": other})


def test_several_differences_are_all_named() -> None:
    other = replace(MADE, guidance=2.0, steps=5)
    with pytest.raises(ValueError, match=r"steps=4 .* of a, but 5 in that of b \(and guidance\)"):
        check_same({"a": MADE, "b": other})
    with pytest.raises(ValueError, match="num_held_out=9 in the protocol of a, but 8"):
        check_same({"a": LOSS, "b": replace(LOSS, num_held_out=8)})


def test_the_name_of_the_images_and_how_a_number_is_written_do_not_matter() -> None:
    same = replace(MADE, reference="folder:digits", guidance_interval=[0.1, 2])  # type: ignore[arg-type]
    assert same == MADE and same.hash == MADE.hash
    whole = replace(MADE, guidance=2), replace(MADE, guidance=2.0)
    assert whole[0].hash == whole[1].hash
    assert replace(LOSS, edges=(8.0, 1.0 + 1e-9, 0.1)) == LOSS != replace(LOSS, edges=(8.0, 1.0 + 1e-4, 0.1))


def test_what_is_no_protocol_is_refused() -> None:
    row = MADE.as_row()
    with pytest.raises(ValueError, match="here is a list; a protocol is a JSON object"):
        read_protocol([], Protocol, "here")
    with pytest.raises(ValueError, match=r"here has version=2; this version of oneblock reads 1; take the score again"):
        read_protocol({**row, "version": 2}, Protocol, "here")
    with pytest.raises(ValueError, match=r"unknown fields \['shift'\] and lacks \['steps'\]"):
        read_protocol({key: row[key] for key in row if key != "steps"} | {"shift": 1}, Protocol)
    with pytest.raises(ValueError, match="here: steps='4' is not allowed in Protocol; use a whole number"):
        read_protocol({**row, "steps": "4"}, Protocol, "here")


def test_scores_carry_the_protocol_that_they_were_taken_by() -> None:
    sampling = Sampling(sampler="euler", steps=4, guidance=1.5, guidance_interval=(0.1, 2.0), sample_seed=3)
    asked = {"num_samples": 24, "extractor": "digits-cnn", "sampling": sampling}
    row = evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, **asked)
    weights = hashlib.sha256(weights_path("digits-cnn").read_bytes()).hexdigest()[:16]
    found = read_protocol(json.loads(json.dumps(row))["protocol"], Protocol)
    expected = replace(
        MADE, extractor_hash=weights, reference=SOURCE.name, reference_hash=hash_of_images(IMAGES.images)
    )
    assert differences(found, expected) == [] and found.reference == SOURCE.name
    assert "fid_protocol" not in row
    loss = read_protocol(row["loss_protocol"], LossProtocol)
    assert (loss.num_held_out, loss.held_out_hash) == (48, SOURCE.fingerprint())
    assert loss.edges == pytest.approx(tiny_plan().partition.edges, rel=1e-5)
    raw = evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, weights="raw", **asked)
    assert read_protocol(raw["protocol"], Protocol) == replace(found, weights="raw")


def test_other_real_images_are_another_protocol() -> None:
    other = EncodedSource(MemorySource(synthetic_images(48, 8, 1, 3, seed=1)), Pixels())
    rows = [
        evaluate_images(by_class, tiny_plan(), source, SOURCE, num_samples=9, extractor="digits-cnn")
        for source in (SOURCE, other)
    ]
    first, second = (read_protocol(row["protocol"], Protocol) for row in rows)
    assert differences(first, second) == ["reference_hash"]


def test_each_point_of_a_curve_has_its_own() -> None:
    asked = {"num_samples": 9, "extractor": "digits-cnn", "sampling": Sampling(sample_seed=5)}
    rows = sampling_curve(by_class, [tiny_plan()], SOURCE, SOURCE, steps=(2, 4), **asked)
    found = [read_protocol(row["protocol"], Protocol) for row in rows]
    assert [(one.sampler, one.steps, one.sample_seed) for one in found] == [
        (row["sampler"], row["steps"], 5) for row in rows
    ]
    usual = Sampling(sampler="euler", steps=2, sample_seed=5)
    row = evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, **asked | {"sampling": usual})
    assert read_protocol(row["protocol"], Protocol) == found[0]


def test_weights_and_images_are_told_apart() -> None:
    assert extractor_hash(extractor_for("digits-cnn")) != extractor_hash(extractor_for("fashion-mnist-cnn"))
    images = IMAGES.images
    assert hash_of_images(images) == hash_of_images(images.clone())
    assert len({hash_of_images(one) for one in (images, images.flip(0), images.flatten(2)[..., None], images[1:])}) == 4
    half = torch.nn.Linear(1, 1).bfloat16()
    assert dtype_of(ClassifierFree(Ensemble([half]), 2.0)) == torch.bfloat16
    assert dtype_of(by_class) == torch.float32
