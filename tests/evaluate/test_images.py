import pytest
import torch
from tiny import IMAGES, tiny_plan
from torch import Tensor, nn

from oneblock.blockwise import Denoiser
from oneblock.condition import ClassIds, Condition, told
from oneblock.data import EncodedSource, MemorySource, Pixels, synthetic_images
from oneblock.evaluate.device import device_of
from oneblock.evaluate.images import Sampling, evaluate_images, makes_images, sample_images
from oneblock.guidance import ClassifierFree, Ensemble
from oneblock.plan import Plan
from oneblock.presets import blockwise

SOURCE = EncodedSource(MemorySource(IMAGES), Pixels())


def whole(plan: Plan, resident: int | None = None) -> Denoiser:
    blocks = blockwise(plan)
    return Denoiser(plan.partition, lambda block: blocks.denoiser(block).eval(), resident)


def by_class(z: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
    """Every pixel says the class."""
    ids = told(condition, ClassIds).ids
    return (ids.float() / 2 - 0.5).view(-1, 1, 1, 1).expand_as(z)


def test_images_of_the_classes_that_are_asked_for() -> None:
    found = sample_images(by_class, tiny_plan(), torch.tensor([2, 0, 1]), Sampling(steps=3))
    assert found.flatten(1)[:, 0].tolist() == [191, 64, 128] and found.dtype == torch.uint8


@pytest.mark.parametrize("sampler", ["euler", "churn"])
def test_neither_the_batch_nor_the_blocks_in_memory_change_an_image(sampler: str) -> None:
    plan = tiny_plan()
    sampling, labels = Sampling(steps=4, sampler=sampler), torch.arange(700) % 3  # type: ignore[arg-type]
    usual = sample_images(whole(plan), plan, labels, sampling)
    few = sample_images(whole(plan), plan, labels[:9], sampling)
    single = sample_images(whole(plan, resident=1), plan, labels, sampling)
    assert single.equal(usual)
    for found in (
        few,
        sample_images(whole(plan), plan, labels[:9], sampling, batch_size=7),
        sample_images(whole(plan), plan, labels, sampling, batch_size=2000),
    ):
        assert (found.int() - usual[: len(found)].int()).abs().max() <= 1, "rounding may move a grey level"


def test_where_blocks_are_loaded_one_by_one_each_is_loaded_once() -> None:
    plan, loaded = tiny_plan(), []
    blocks = blockwise(plan)

    def load(block: int):  # type: ignore[no-untyped-def]
        loaded.append(block)
        return blocks.denoiser(block).eval()

    sample_images(Denoiser(plan.partition, load, 1), plan, torch.arange(1200) % 3, Sampling(steps=4, grid="equal-mass"))
    assert loaded in ([0, 1], [0, 0, 1])


def test_scores_name_their_parts() -> None:
    scores = evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, num_samples=0)
    assert scores.keys() == {"band_losses", "loss", "loss_protocol"}
    with pytest.raises(ValueError, match="extractor name='cats' is unknown"):
        evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, num_samples=5, extractor="cats")


def test_images_that_do_not_fit_the_plan() -> None:
    wide = EncodedSource(MemorySource(synthetic_images(6, 16, 1, 3, seed=0)), Pixels())
    with pytest.raises(ValueError, match=r"the data have shape \(1, 16, 16\), but the plan was made for \(1, 8, 8\)"):
        evaluate_images(by_class, tiny_plan(), SOURCE, wide)
    with pytest.raises(ValueError, match="count=3 is given beside labels"):
        sample_images(by_class, tiny_plan(), torch.tensor([2, 0, 1]), count=3)


def test_the_same_images_are_no_floor() -> None:
    scores = evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, num_samples=24, extractor="digits-cnn")
    assert scores["frechet_floor"] is None and "no floors" in scores["note"]


def test_what_can_be_seen_is_known_by_its_shape() -> None:
    class Latents(Pixels):
        def fingerprint(self) -> str:
            return "abc"

    assert makes_images(tiny_plan())
    assert makes_images(tiny_plan(), Latents())


def test_a_denoiser_works_where_its_weights_are() -> None:
    there = nn.Linear(1, 1, device="meta")
    assert device_of(ClassifierFree(Ensemble([there]), 2.0)).type == "meta"
    assert device_of(by_class).type == "cpu"
    assert device_of(whole(tiny_plan())).type == "cpu"


def test_features_that_know_no_classes_are_not_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rows:
        name, dim = "rows", 2

        def __call__(self, images: Tensor) -> Tensor:
            return images.float().flatten(1)[:, :2] + torch.arange(2 * len(images)).view(-1, 2) % 7

    monkeypatch.setattr("oneblock.evaluate.reference.check_extractor", lambda name: None)
    monkeypatch.setattr("oneblock.evaluate.reference.extractor_for", lambda name: Rows())
    found = evaluate_images(by_class, tiny_plan(), SOURCE, SOURCE, num_samples=9, extractor="rows")
    assert (found["extractor"], found["class_agreement"]) == ("rows", None)
