"""Every example runs, on data that are made here."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from convert.without_torchvision import absent

from oneblock.model import ImageModel

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_is_short_and_each_is_run_here() -> None:
    lengths = {path.stem: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert max(lengths.values()) < 60, lengths
    here = Path(__file__).read_text()
    assert not [name for name in lengths if f'load("{name}")' not in here]


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    load("images").main(str(tmp_path), budget="3k")
    assert "images: uint8 (3, 1, 8, 8)" in capsys.readouterr().out
    assert (tmp_path / "model" / "block-2.safetensors").is_file()


def test_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    load("captions").main(str(tmp_path / "run"), budget="600", data="scenes,images=24")
    out = capsys.readouterr().out
    assert "7 keys differ from the plan for classes: architecture.num_classes, architecture.tokens," in out
    assert "images: uint8 (2, 3, 24, 24)" in out
    assert "by chance, 1.00 of real ones" in out


def test_autoencoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("diffusers")
    load("autoencoder").main("digits", str(tmp_path), steps=60, budget="600")
    error = float(capsys.readouterr().out.split("squared error of ")[1].split()[0])
    assert error < 0.3, "black images are 0.6 off"
    model = ImageModel.open(tmp_path / "run")
    assert model.sample([1, 2], autoencoder=tmp_path / "autoencoder").shape == (2, 1, 8, 8)
    assert model.plan.recipe["autoencoder"], "it denoises latents"


def test_video(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    load("video").main(str(tmp_path), budget="600", clips=50)
    assert "video: uint8 (1, 40, 1, 16, 16) in" in capsys.readouterr().out
    assert (tmp_path / "three.gif").is_file()


def test_classify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    load("classify").main(str(tmp_path), budget="3k")
    assert capsys.readouterr().out.count("accuracy") == 2


def test_masked_text(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    load("masked_text").main(text, str(tmp_path / "run"), budget="600")
    assert "bits per byte at most" in capsys.readouterr().out


def test_causal_text(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    load("causal_text").main(text, str(tmp_path / "run"), budget="600")
    out = capsys.readouterr().out
    assert "bits per byte after every call" in out
    assert "\nthe " in out


def test_recurrent_text(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    load("recurrent_text").main(text, str(tmp_path / "run"), budget="600")
    assert "4 calls:" in capsys.readouterr().out


def test_a_network_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("own_network").main(str(tmp_path / "run"), budget="40k")
    means = [float(m) for m in capsys.readouterr().out.split("[")[1].split("]")[0].split(",")]
    assert means == sorted(means), "dark, grey and bright classes come out in their order"


def test_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    losses = load("own_loop").main(steps=120)
    assert max(losses) < 0.95, "each block is better than an answer of zeros, whose loss is about 1"


def test_a_network_of_another_library(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    load("convert_gpt2").main(text, str(tmp_path / "run"), budget="3k")
    out = capsys.readouterr().out
    assert "layers found in transformer.h" in out
    assert float(out.split("bits per byte:")[1]) < 4.8


def test_specialists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    load("specialists").main(str(tmp_path), budget="12k")
    out = capsys.readouterr().out
    assert out.count("block ") >= 3
    assert "teacher:     6 layers a call" in out
    assert "specialists: 2 layers a call" in out


def test_experts_by_lora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for library in ("diffusers", "peft", "sklearn"):
        pytest.importorskip(library)
    load("lora_experts").main(str(tmp_path), budget="1k")
    out = capsys.readouterr().out
    assert "band 1: 4096 numbers beside 1" in out
    assert (tmp_path / "export" / "block-1" / "adapter_config.json").is_file()


def test_a_vision_transformer_of_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    with absent():
        pytest.importorskip("timm")
    load("convert_timm").main(str(tmp_path), budget="3k")
    out = capsys.readouterr().out
    assert "own block, 2 blocks:" in out
    assert "accuracy:" in out
    assert "block 0 in timm: VisionTransformer of 3 layers" in out


def test_evolution_learns_from_right_and_wrong_alone(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    assert load("evolve_accuracy").main(steps=50) > 0.3, "chance is 0.1"
    assert "on held-out digits" in capsys.readouterr().out


def test_evolution_learns_from_a_checker_in_plain_python() -> None:
    example = load("evolve_checker")
    assert [example.checker(text) for text in ("([{([])}])", "([{([])})]", "([{((((((", ")))))))))")] == [
        pytest.approx(share) for share in (1.0, 0.6, 0.0, 0.0)
    ]
    assert example.main(steps=60, population=128) > 0.1, "chance is 6^-5"
