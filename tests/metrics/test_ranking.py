"""Agreement of rankings: the correlations of the published table of DiffusionBench, and small cases by hand."""

import math

import pytest
import torch

from oneblock.metrics.ranking import Agreement, Score, agreement, pearson, ranks, spearman

# method: group, FID with its best guidance, FID without guidance, GenEval, DPG-Bench, GenAI-Bench
# arXiv 2606.24888, 100,000 steps at batch 1024, one seed each. Its Pearson coefficients of the guided FID are those of
# the first case below; the Spearman coefficients are not published, and here those of scipy.stats.spearmanr.
PUBLISHED = {
    "DINOv2-B": ("representation", 1.96, 2.14, 0.628, 0.810, 0.707),
    "DINOv2-B+REG": ("representation", 1.84, 2.08, 0.608, 0.808, 0.702),
    "DINOv3-B": ("representation", 1.74, 2.15, 0.636, 0.828, 0.718),
    "DINOv3-B+REG": ("representation", 1.78, 2.15, 0.642, 0.827, 0.730),
    "SigLIP2-B": ("representation", 2.61, 3.48, 0.606, 0.809, 0.718),
    "PE-L": ("representation", 2.84, 3.08, 0.586, 0.818, 0.723),
    "LangPE-L": ("representation", 2.46, 2.76, 0.633, 0.826, 0.724),
    "SpatialPE-L": ("representation", 1.86, 3.61, 0.535, 0.790, 0.694),
    "SD-VAE-EMA": ("autoencoder", 2.43, 10.16, 0.578, 0.804, 0.691),
    "SD-VAE-EMA+REG": ("autoencoder", 2.34, 5.39, 0.570, 0.792, 0.691),
    "SD-VAE-MSE": ("autoencoder", 2.56, 10.15, 0.624, 0.813, 0.701),
    "SDXL-VAE": ("autoencoder", 3.07, 12.88, 0.617, 0.812, 0.705),
    "SD3.5-VAE": ("autoencoder", 2.64, 10.18, 0.640, 0.818, 0.702),
    "FLUX.1-VAE": ("autoencoder", 3.55, 15.75, 0.559, 0.796, 0.684),
    "FLUX.2-VAE": ("autoencoder", 1.37, 4.53, 0.675, 0.830, 0.712),
    "FLUX.2-VAE+REG": ("autoencoder", 1.44, 4.19, 0.687, 0.830, 0.722),
    "Qwen-Image-VAE": ("autoencoder", 3.01, 10.86, 0.611, 0.802, 0.704),
    "E2E-VAVAE": ("autoencoder", 1.65, 4.27, 0.632, 0.824, 0.703),
    "E2E-FLUX.1": ("autoencoder", 1.67, 6.30, 0.625, 0.823, 0.706),
    "E2E-SD3.5": ("autoencoder", 1.62, 5.32, 0.637, 0.840, 0.715),
    "E2E-Qwen": ("autoencoder", 1.55, 4.98, 0.691, 0.835, 0.714),
    "JiT": ("pixel", 4.08, 21.72, 0.516, 0.782, 0.674),
    "PixNerd": ("pixel", 4.17, 20.61, 0.484, 0.777, 0.643),
    "PixelGen": ("pixel", 3.97, 12.10, 0.554, 0.798, 0.678),
    "MeanFlow, 1 step": ("meanflow", 6.60, 24.83, 0.287, 0.688, 0.582),
    "MeanFlow, 2 steps": ("meanflow", 5.40, 20.58, 0.341, 0.721, 0.602),
}
COLUMNS = {"FID": 1, "FID without guidance": 2, "GenEval": 3, "DPG": 4, "GenAI": 5}
LATENT = [method for method, row in PUBLISHED.items() if row[0] in ("representation", "autoencoder")]
WITH_PIXELS = [method for method, row in PUBLISHED.items() if row[0] != "meanflow"]
GOOD = [method for method in LATENT if float(PUBLISHED[method][1]) < 2]


def score(name: str, methods: list[str]) -> Score:
    values = {method: float(PUBLISHED[method][COLUMNS[name]]) for method in methods}
    return Score(name, "lower" if name.startswith("FID") else "higher", values)


def published(methods: list[str], fid: str = "FID", **options: object) -> list[Agreement]:
    ours = {"draws": 2} | options
    texts = ("GenEval", "DPG", "GenAI")
    return [agreement(score(fid, methods), score(text, methods), **ours) for text in texts]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "fid", "linear", "ranked"),
    [
        pytest.param(LATENT, "FID", (-0.555, -0.580, -0.377), (-0.63, -0.67, -0.32), id="latent"),
        pytest.param(
            LATENT, "FID without guidance", (-0.267, -0.369, -0.620), (-0.20, -0.24, -0.57), id="latent-unguided"
        ),
        pytest.param(WITH_PIXELS, "FID", (-0.770, -0.755, -0.716), None, id="and-pixel"),
        pytest.param(list(PUBLISHED), "FID", (-0.910, -0.906, -0.892), None, id="and-meanflow"),
        pytest.param(GOOD, "FID", (-0.719, -0.687, -0.360), None, id="best"),
    ],
)
def test_the_published_table(
    methods: list[str], fid: str, linear: tuple[float, ...], ranked: tuple[float, ...] | None
) -> None:
    found = [one.pooled for one in published(methods, fid)]
    assert tuple(round(one.pearson.value, 3) for one in found) == linear
    assert ranked is None or tuple(round(one.spearman.value, 2) for one in found) == ranked


def test_the_published_headline_is_agreement_and_its_interval_is_wide() -> None:
    found = published(LATENT, draws=500)[0]
    assert (len(LATENT), found.pooled.num_methods, found.sign) == (21, 21, -1)
    assert found.explanation == (
        "FID and GenEval are better at opposite ends: a negative correlation means that they agree."
    )
    assert found.sign * found.pooled.pearson.value > 0
    assert -0.85 < found.pooled.pearson.low < -0.7 and -0.3 < found.pooled.pearson.high < 0


def test_pooling_groups_inflates_and_each_group_is_given() -> None:
    methods = list(PUBLISHED)
    groups = {method: str(PUBLISHED[method][0]) for method in methods}
    found = agreement(score("FID", methods), score("GenEval", methods), groups, draws=2)
    assert list(found.groups) == ["representation", "autoencoder", "pixel"] and found.small == ("meanflow",)
    within = {group: one.pearson.value for group, one in found.groups.items()}
    assert found.pooled.pearson.value < min(within["autoencoder"], within["representation"])
    alone = [method for method in methods if groups[method] == "pixel"]
    x, y = (torch.tensor(list(score(name, alone).values.values())) for name in ("FID", "GenEval"))
    assert within["pixel"] == pytest.approx(pearson(x, y), abs=1e-6) and found.groups["pixel"].num_methods == 3


def test_without_one_method_are_all_others() -> None:
    found = published(LATENT)[0].pooled
    rest = published([method for method in LATENT if method != "FLUX.1-VAE"])[0].pooled
    assert list(found.without) == LATENT
    expected = (rest.pearson.value, rest.spearman.value)
    assert found.without["FLUX.1-VAE"] == pytest.approx(expected, rel=1e-12)
    assert found.without["FLUX.1-VAE"] != pytest.approx((found.pearson.value, found.spearman.value), abs=1e-3)


def test_coefficients_by_hand() -> None:
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 8.0, 27.0, 0.0])
    assert spearman(x, y[:3].repeat(2)[[0, 1, 2, 5]] + torch.tensor([0.0, 0, 0, 1])) == pytest.approx(1.0)
    assert spearman(x, y) == pytest.approx(-0.2)  # 1 - 6 (1 + 1 + 1 + 9) / (4 * 15)
    assert ranks(torch.tensor([2.0, 1.0, 2.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]
    assert pearson(x, -3 * x + 2) == -1.0
    assert pearson(torch.tensor([0.0, 0.0, 3.0]), torch.tensor([0.0, 1.0, 2.0])) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(pearson(x, torch.full((4,), 0.1))) and math.isnan(spearman(x, torch.ones(4)))


def test_coefficients_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 8, (30,), generator=draw).double()
    y = x + torch.randint(-4, 5, (30,), generator=draw)
    assert pearson(x, y) == pytest.approx(stats.pearsonr(x.numpy(), y.numpy())[0], rel=1e-10)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x.numpy(), y.numpy())[0], rel=1e-10)


def test_the_same_end_of_both_has_the_other_sign() -> None:
    values = {"a": 1.0, "b": 2.0, "c": 4.0}
    found = agreement(Score("x", "lower", values), Score("y", "lower", values), draws=2)
    assert found.sign == 1 and found.explanation.endswith("a positive correlation means that they agree.")
    assert found.groups == {} and found.small == ()


def test_what_cannot_be_ranked_is_refused() -> None:
    one, three = Score("x", "lower", {"a": 1.0}), Score("y", "higher", {"a": 1.0, "b": 2.0, "c": 3.0})
    with pytest.raises(ValueError, match="1 methods have no ranking to compare; give 3 or more"):
        agreement(one, Score("y", "lower", {"a": 3.0}))
    with pytest.raises(ValueError, match="method 'b' has only one of x and y"):
        agreement(one, three)
    with pytest.raises(ValueError, match="method 'c' has no group"):
        agreement(three, three, {"a": "g", "b": "g"})
    with pytest.raises(ValueError, match="y of 'b' is nan"):
        Score("y", "higher", {"a": 1.0, "b": math.nan})
    with pytest.raises(ValueError, match="better='big' is not allowed"):
        Score("y", "big", {})  # type: ignore[arg-type]
