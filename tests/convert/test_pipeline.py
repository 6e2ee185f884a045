"""Blocks in diffusers' own pipeline: the same images, each network at the steps of its band, one in memory."""

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")

import diffusers
from convert.networks import network

import oneblock as ob
from oneblock.condition import ClassIds
from oneblock.convert.pipeline import RoutedTransformer
from oneblock.noise import LogNormal
from oneblock.partition import make_partition
from oneblock.presets.image import image_frame
from oneblock.schedule import DiscreteBetas, FlowMatching, Parametrisation, Scaled, VariancePreserving, frame_to_dict
from oneblock.train.drive import Watch

FRAME = VariancePreserving(DiscreteBetas())
LEVELS = make_partition(LogNormal(sigma_min=FRAME.low), 3).edges
EDGES = FRAME.noise(torch.tensor(LEVELS[1:-1], dtype=torch.float64)).tolist()
STEPS = 12


def dit(seed: int = 0) -> Any:
    """A generator of latents 4 x 4 x 4 that knows a thousand classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = diffusers.DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=4,
            patch_size=2, num_embeds_ada_norm=1000, norm_num_groups=1,
        )  # fmt: skip
        with torch.no_grad():
            for p in made.parameters():
                p.add_(0.02 * torch.randn_like(p))
    return made.eval()


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return diffusers.AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8,), norm_num_groups=4, sample_size=4,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        ).eval()  # fmt: skip


def drawn(transformer: Any, autoencoder: Any, guidance: float = 4.0) -> Tensor:
    """Images of diffusers' own pipeline."""
    scheduler: Any = diffusers.DDIMScheduler(clip_sample=False)
    pipe: Any = diffusers.DiTPipeline(transformer=transformer, vae=autoencoder, scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(2)
    asked = {"num_inference_steps": STEPS, "output_type": "pt", "guidance_scale": guidance, "generator": generator}
    images: Tensor = pipe(class_labels=[1, 7], **asked).images
    return images


class Seen:
    """Loads networks and keeps a record of what is in memory and at which time steps they are called."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.times: list[list[float]] = [[], [], []]
        self.loaded: list[int] = []
        self._alive: list[weakref.ref[nn.Module]] = []
        self._make = make

    def loader(self, band: int) -> Callable[[], nn.Module]:
        def load() -> nn.Module:
            gc.collect()
            assert not [one for one in self._alive if one() is not None], "the last one was let go before"
            made: nn.Module = self._make(band)
            self._alive.append(weakref.ref(made))
            self.loaded.append(band)
            made.register_forward_pre_hook(
                lambda module, args, kwargs: self.times[band].extend(set(kwargs["timestep"].tolist())), with_kwargs=True
            )
            return made

        return load


def test_the_same_weights_in_all_bands_give_the_same_images_one_network_at_a_time(autoencoder: Any) -> None:
    seen = Seen(lambda band: dit())
    routed = RoutedTransformer([seen.loader(band) for band in range(3)], EDGES)
    assert drawn(routed, autoencoder).equal(drawn(dit(), autoencoder))
    assert seen.loaded == [0, 1, 2]
    scheduler: Any = diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    owners = make_partition(LogNormal(sigma_min=FRAME.low), 3).block_at(
        FRAME.level(scheduler.timesteps.double()).clamp(*LEVELS[::-3])
    )
    assert seen.times == [scheduler.timesteps[owners == band].tolist() for band in range(3)]
    assert all(seen.times), "every band has steps"
    assert drawn(routed, autoencoder).equal(drawn(dit(), autoencoder)), "a second time"
    assert seen.loaded == [0, 1, 2, 0, 1, 2]


@torch.no_grad()
def test_each_band_is_answered_by_its_own_network(autoencoder: Any) -> None:
    """Whose networks are given, not loaded; a call with steps of several bands is one call for each."""
    made = [dit(band) for band in range(3)]
    routed = RoutedTransformer(made, EDGES)
    assert not drawn(routed, autoencoder).equal(drawn(made[0], autoencoder))
    generator = torch.Generator().manual_seed(3)
    x, labels = torch.randn(5, 4, 4, 4, generator=generator), torch.tensor([5, 6, 7, 8, 9])
    times, owners = torch.tensor([0, 999, 500, 1, EDGES[0]]), [2, 0, 0, 2, 1]
    assert routed.band_of(times).tolist() == owners
    expected = torch.cat(
        [
            made[band](x[i : i + 1], timestep=times[i : i + 1], class_labels=labels[i : i + 1]).sample
            for i, band in enumerate(owners)
        ]
    )
    found = routed(x, timestep=times, class_labels=labels)
    assert type(found) is type(made[0](x, timestep=times, class_labels=labels))
    torch.testing.assert_close(found.sample, expected)
    bare = routed(x, times, labels, None, False)
    assert isinstance(bare, tuple)
    torch.testing.assert_close(bare[0], expected)
    for i, band in enumerate(owners):
        asked = {"timestep": times[i : i + 1].expand(5), "class_labels": labels}
        assert routed(x, **asked).sample.equal(made[band](x, **asked).sample)
        assert isinstance(routed(x, **asked, return_dict=False), tuple)


def test_networks_go_where_the_pipeline_goes(autoencoder: Any) -> None:
    routed = RoutedTransformer([lambda: dit(0), dit(1)], EDGES[:1])
    assert (routed.dtype, routed.device.type, routed.config.sample_size) == (torch.float32, "cpu", 4)
    pipe: Any = diffusers.DiTPipeline(transformer=dit(), vae=autoencoder, scheduler=diffusers.DDIMScheduler())
    pipe.transformer = routed
    pipe.to(torch.float64)
    assert routed.dtype == torch.float64
    assert next(routed.resident.parameters()).dtype == torch.float64
    x, labels = torch.zeros(1, 4, 4, 4, dtype=torch.float64), torch.tensor([1])
    assert routed(x, timestep=torch.tensor([0]), class_labels=labels).sample.dtype == torch.float64
    assert (routed.band, next(routed.resident.parameters()).dtype) == (1, torch.float64)
    assert RoutedTransformer([lambda: dit(0)], (), dtype=torch.bfloat16).resident.dtype == torch.bfloat16
    pipe.to(torch.float32)


def exported(folder: Path, frame: Parametrisation = FRAME, changes: dict[str, Any] | None = None) -> Path:
    """A directory as ``Model.export`` writes it."""
    folder.mkdir()
    for band in range(3):
        dit(band).save_pretrained(folder / f"block-{band}")
    values = {
        "library": "diffusers",
        "class": "DiTTransformer2DModel",
        "blocks": [f"block-{band}" for band in range(3)],
        "edges": LEVELS,
        "frame": frame_to_dict(frame),
        "plan": {},
        **(changes or {}),
    }
    (folder / "oneblock.json").write_text(json.dumps(values))
    return folder


def test_an_exported_model_draws_in_the_pipeline(tmp_path: Path, autoencoder: Any) -> None:
    routed = RoutedTransformer.from_pretrained(exported(tmp_path / "model"))
    assert routed.edges == pytest.approx(EDGES)
    expected = drawn(RoutedTransformer([dit(band) for band in range(3)], EDGES), autoencoder)
    assert drawn(routed, autoencoder).equal(expected)
    flow = FlowMatching(shift=3.0)
    of_flow = RoutedTransformer.from_pretrained(exported(tmp_path / "flow", flow), dtype=torch.bfloat16)
    assert of_flow.edges == pytest.approx([1000 * level / (1 + level) for level in LEVELS[1:-1]])
    assert of_flow.dtype == torch.bfloat16
    half = RoutedTransformer.from_pretrained(exported(tmp_path / "half", Scaled(flow, 0.5)))
    assert half.edges == pytest.approx([2000 * level / (1 + 2 * level) for level in LEVELS[1:-1]])


def test_a_network_that_is_told_a_share_of_its_time_has_edges_in_such_shares(tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    folder.mkdir()
    for band in range(2):
        cast(Any, network("Flux", band)).save_pretrained(folder / f"block-{band}")
    values = {"blocks": ["block-0", "block-1"], "edges": [80.0, 1.0, 0.01], "frame": frame_to_dict(FlowMatching())}
    (folder / "oneblock.json").write_text(
        json.dumps({"library": "diffusers", "class": "FluxTransformer2DModel", **values})
    )
    assert RoutedTransformer.from_pretrained(folder).edges == (0.5,)


@torch.no_grad()
def test_what_a_run_exports_answers_in_the_pipeline_as_its_model_does(tmp_path: Path) -> None:
    scheduler: Any = diffusers.DDPMScheduler(prediction_type="v_prediction")
    recipe = ob.ImageRecipe(blocks=3, budget=6 * 8 * 4, batch_size=8, block_batch_size=8)
    with torch.enable_grad():
        builder = ob.convert(network("DiT"), outputs=1, scheduler=scheduler)
        ob.train(recipe, data="digits", backbone=builder, out=tmp_path / "run", watch=Watch(bars=False))
    model = ob.Model.open(tmp_path / "run")
    model.export(tmp_path / "exported")
    routed = RoutedTransformer.from_pretrained(tmp_path / "exported")
    frame = cast(Parametrisation, image_frame(model.plan))
    sigma, labels = torch.tensor([70.0, 3.0, 0.3, 0.02]), torch.tensor([1, 2, 3, 10])
    assert len(set(model.plan.partition.block_at(sigma).tolist())) == 3
    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(4)) * sigma.view(-1, 1, 1, 1)
    answer = routed(frame.inputs(z, sigma), timestep=frame.noise(sigma), class_labels=labels).sample[:, :1]
    torch.testing.assert_close(frame.outputs(z, sigma, answer), model.denoiser(z, sigma, ClassIds(labels, 10)))


def another(folder: Path) -> None:
    path = folder / "block-0" / "config.json"
    path.write_text(path.read_text().replace("DiTTransformer2DModel", "PixArtTransformer2DModel"))


def pickled(folder: Path) -> None:
    weights = folder / "block-0" / "diffusion_pytorch_model.safetensors"
    torch.save(dit().state_dict(), weights.with_suffix(".bin"))
    weights.unlink()


@pytest.mark.parametrize(
    ("changes", "damage", "message"),
    [
        ({"frame": None}, None, r"were trained under EDM's preconditioning, .*convert\(\.\.\., scheduler="),
        ({"frame": {"frame": "x"}}, None, "frame='x' is unknown"),
        ({"library": "transformers"}, None, "library='transformers', class='DiTT.*a pipeline needs those of diffusers"),
        ({"class": "GPT2LMHeadModel"}, None, "names the class 'GPT2LMHeadModel', which is not in diffusers"),
        ({"class": "Evil"}, None, "names the class 'Evil', which is not in diffusers"),
        ({"blocks": ["../block-0", "block-1", "block-2"]}, None, r"blocks=\['\.\./block-0', .* are not directories"),
        ({"edges": [80.0, 1.0]}, None, r"edges=\[80.0, 1.0\] for 3 blocks; one level more is needed"),
        ({"edges": [80.0, 1.0, 2.0, 0.1]}, None, r"all descending"),
        ({}, another, "block-0 holds a PixArtTransformer2DModel, not a DiTTransformer2DModel as the other blocks"),
        ({}, pickled, "does not hold a DiTTransformer2DModel"),
        ({}, lambda folder: (folder / "oneblock.json").unlink(), "has no oneblock.json; give the directory of an exp"),
        ({}, lambda folder: (folder / "oneblock.json").write_text("[]"), "holds a list, not a model"),
    ],
)
def test_what_is_no_exported_generator_is_refused(
    changes: dict[str, Any], damage: Callable[[Path], Any] | None, message: str, tmp_path: Path
) -> None:
    folder = exported(tmp_path / "model", FRAME, changes)
    if damage is not None:
        damage(folder)
    with pytest.raises(ValueError, match=message):
        RoutedTransformer.from_pretrained(folder)


def test_bands_that_do_not_fit_are_refused() -> None:
    for edges in ((500.0,), (100.0, 200.0), (1.0, 1.0)):
        with pytest.raises(ValueError, match=r"do not part 3 bands; give 2 descending time steps"):
            RoutedTransformer([dit, dit, dit], edges)
    with pytest.raises(ValueError, match="timestep=None, but the time step says which network answers"):
        RoutedTransformer([dit], ())(torch.zeros(1, 4, 4, 4))


def test_a_network_that_a_band_shares_with_nobody_is_the_whole_routed_one() -> None:
    made = network("DiT").eval()
    x, told = torch.zeros(2, 1, 8, 8), {"timestep": torch.tensor([1, 900]), "class_labels": torch.tensor([0, 1])}
    assert RoutedTransformer([made], ())(x, **told).sample.equal(made(x, **told).sample)
