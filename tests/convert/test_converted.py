"""Networks of other libraries as backbones: the same answers at the start, blocks that train alone, and refusals."""

import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")
pytest.importorskip("diffusers")

from convert.networks import CLASSES, GPT2, NETWORKS, SYMBOLS, network, of_timm
from convert.without_torchvision import absent

import oneblock as ob
from oneblock.backbone import check_backbone, forward
from oneblock.condition import ClassIds, Condition, Frames, Nothing, Tokens
from oneblock.convert.block import ConvertedBackbone
from oneblock.convert.converted import ConvertedLibrary
from oneblock.convert.discover import find_layers
from oneblock.convert.kinds import TIME_STEPS, kind_of
from oneblock.presets import Recipe
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch
from oneblock.train.record import read_rows

OUTPUTS = {"text": SYMBOLS, "masked-text": SYMBOLS, "classify": CLASSES, "image": 1}
RECIPES: dict[str, type[Recipe]] = {
    "text": ob.CausalRecipe, "masked-text": ob.MaskedRecipe, "classify": ob.ClassifyRecipe, "image": ob.ImageRecipe
}  # fmt: skip


FEW = ["GPT-2", "ModernBERT", "DeiT", "DiT"]
"""One of each kind."""


def converted(name: str, seed: int = 0) -> tuple[nn.Module, ConvertedLibrary]:
    made = network(name, seed)
    found = ob.convert(made, outputs=OUTPUTS[kind_of(made).name])
    assert isinstance(found, ConvertedLibrary)
    return made, found


def asked(name: str, made: nn.Module) -> tuple[Tensor, Tensor, Condition, Callable[[], Tensor]]:
    """Noisy targets, noise, condition, and the original's answer on clean input."""
    generator = torch.Generator().manual_seed(1)
    kind, noise = kind_of(made).name, torch.randn(3, generator=generator)
    tokens = torch.randint(SYMBOLS, (3, 12), generator=generator)
    images = torch.randn(3, 1, 8, 8, generator=generator)
    net: Any = made.eval()
    if kind == "text":
        shifted = torch.cat([torch.full((3, 1), 30), tokens[:, :-1]], dim=1)
        z = torch.randn(3, 12, SYMBOLS, generator=generator)
        return z, noise, Tokens(tokens), lambda: net(input_ids=shifted).logits[..., :SYMBOLS]
    if kind == "masked-text":
        masked = tokens.clone()
        masked[:, ::3] = SYMBOLS
        return masked, noise, Nothing(3), lambda: net(input_ids=masked).logits[..., :SYMBOLS]
    if kind == "classify":
        z = torch.randn(3, CLASSES, generator=generator)
        if name.startswith("timm"):
            return z, noise, Frames(images), lambda: net(images)
        return z, noise, Frames(images), lambda: net(pixel_values=images).logits
    labels = torch.tensor([0, 3, CLASSES])
    told = {"timestep": TIME_STEPS * noise, "class_labels": labels}
    return images, noise, ClassIds(labels, CLASSES), lambda: net(images, **told).sample[:, :1]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_converted_network_answers_as_the_original(name: str) -> None:
    """To the bit, on clean input: what is new is zero at the start."""
    made, builder = converted(name)
    z, noise, condition, original = asked(name, made)
    whole = builder(range(builder.depth)).eval()
    assert forward(whole, z, noise, condition).equal(original())
    with torch.no_grad():
        for module in whole.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                module.weight.add_(0.1)
    if kind_of(made).name != "image":
        assert not forward(whole, z, noise, condition).equal(original()), "noise and noisy targets can be learned"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_block_has_its_own_layers_and_learns_in_them_alone(name: str) -> None:
    made, builder = converted(name)
    z, noise, condition, _ = asked(name, made)
    before = {key: p.detach().clone() for key, p in made.named_parameters()}
    block = builder(range(2, 4)).train()
    assert list(block.layers) == ["2", "3"]
    layers: Any = made.get_submodule(builder.path)
    kept = number(made) - number(layers) + number(layers[2]) + number(layers[3])
    new = [part for part in (block.noise, block.noisy, *(one.modulation for one in block.layers.values())) if part]
    assert number(block) == kept + sum(map(number, new))
    forward(block, z, noise, condition).square().mean().backward()
    assert all(p.grad is None for p in made.parameters())
    for layer in block.layers.values():
        for key, p in layer.named_parameters():
            assert p.grad is not None and p.grad.any(), key
    torch.optim.SGD(block.parameters(), lr=0.1).step()
    assert all(p.equal(before[key]) for key, p in made.named_parameters()), "the original stays as it is"


def test_the_end_of_a_dit_reaches_into_the_first_layer_of_its_block() -> None:
    made, builder = converted("DiT")
    z, noise, condition, _ = asked("DiT", made)
    block = builder(range(2, 4)).eval()
    assert not [key for key in block.state_dict() if key.startswith("ends.transformer_blocks")], "nothing stands twice"
    h, carried = block.stem(z, noise, condition)
    layers: Any = block.layers
    block.head(h.detach(), carried).square().mean().backward()
    assert [key for key, p in block.layers.named_parameters() if p.grad is not None] == [
        f"2.layer.norm1.emb.{key}" for key, _ in layers["2"].layer.norm1.emb.named_parameters()
    ]
    twin = deepcopy(block)
    with torch.no_grad():
        for p in twin.layers["2"].layer.norm1.emb.parameters():
            p.zero_()
        assert not twin.head(h, carried).equal(block.head(h, carried)), "a copy reaches into its own layers"


def test_weights_that_are_on_several_devices_are_together_when_the_end_reaches_into_them(tmp_path: Path) -> None:
    """FSDP2 has the weights of a layer together only while it is called, and the end of a DiT comes after it."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard

    _, builder = converted("DiT")
    z, noise, condition, _ = asked("DiT", builder.network)
    denoiser = ob.BlockDenoiser(builder(range(2, 4)).eval(), ob.Precondition(sigma_data=0.5))
    alone = denoiser(z, noise.exp(), condition).detach()
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1
    )
    try:
        mesh = distributed.init_device_mesh("cpu", (1,))
        for layer in denoiser.layers.values():
            fully_shard(layer, mesh=mesh)
        fully_shard(denoiser, mesh=mesh)
        assert denoiser(z, noise.exp(), condition).equal(alone)
    finally:
        distributed.destroy_process_group()


def number(module: nn.Module) -> int:
    """Of the parameters of a module."""
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", FEW)
def test_blocks_put_together_are_the_network(name: str) -> None:
    """Layers of three blocks, one after the other, between the ends of any: cut and joined at the right places.

    The end of a DiT reaches into its first layer for the embedder of time step and class, that of a block into the
    block's own first layer. Here the embedders of all layers are alike, as they are in published DiTs.
    """
    made, builder = converted(name)
    if name == "DiT":
        layers: Any = made.get_submodule(builder.path)
        for layer in layers[1:]:
            layer.norm1.emb.load_state_dict(layers[0].norm1.emb.state_dict())
    z, noise, condition, original = asked(name, made)
    blocks = [builder(range(start, start + 2)).eval() for start in (0, 2, 4)]
    with torch.no_grad():
        h, carried = blocks[0].stem(z, noise, condition)
        for block in blocks:
            for layer in block.layers.values():
                h = layer(h, carried)
        assert blocks[2].head(h, carried).equal(original())


def recipe_and_data(made: nn.Module, folder: Path, **changes: Any) -> tuple[Recipe, str]:
    kind = kind_of(made).name
    settings: dict[str, Any] = {"batch_size": 16, "block_batch_size": 16, "learning_rate": 3e-3, **changes}
    if kind in ("classify", "image"):
        return RECIPES[kind](**settings), "digits"
    path = folder / "text.txt"
    if not path.is_file():
        path.write_text("the cat sat on the mat and a dog ran to the gate while rain fell on the old town . " * 200)
    return RECIPES[kind](length=16, **settings), f"file:{path}"


def losses(run: Path) -> list[list[float]]:
    """Of every block, the mean of each ten steps."""
    return [[float(row["plain"]) for row in read_rows(path)] for path in sorted(run.glob("block-*/metrics.jsonl"))]


@pytest.mark.filterwarnings("ignore:file:")
@pytest.mark.parametrize(
    ("name", "blocks"),
    [(name, 3) for name in NETWORKS]
    + [pytest.param(name, 2, marks=() if name in FEW else pytest.mark.slow) for name in NETWORKS],
)
def test_blocks_train_on_real_data(name: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneblock.train.drive.Recorder", every_ten)
    made, builder = converted(name)
    recipe, data = recipe_and_data(made, tmp_path, blocks=blocks, budget=16 * 6 * 40)
    done = ob.train(recipe, backbone=builder, data=data, out=tmp_path / "run", watch=QUIET)
    assert (done.plan.depth, done.plan.num_blocks) == (6, blocks)
    assert done.plan.architecture["name"] == f"oneblock.convert.converted:{builder.__qualname__}"
    for block, found in enumerate(losses(tmp_path / "run")):
        assert len(found) == 4
        assert min(found[1:]) < found[0], f"block {block}: {found}"


QUIET = Watch(bars=False)


def every_ten(directory: Path, note: str = "") -> Any:
    from oneblock.train.record import Recorder

    return Recorder(directory, every=10, note=note)


@pytest.mark.filterwarnings("ignore:file:")
def test_a_run_goes_on_with_the_same_network_alone(tmp_path: Path) -> None:
    _, builder = converted("GPT-2")
    recipe, data = recipe_and_data(builder.network, tmp_path, blocks=3, budget=16 * 6 * 10)

    def train(backbone: ConvertedLibrary, out: str) -> dict[str, bytes]:
        machine = ob.Machine(save_every=4, keep=9, threads=1)
        ob.train(recipe, backbone=backbone, data=data, out=tmp_path / out, watch=QUIET, machine=machine)
        jobs = sorted((tmp_path / out).glob("block-*"))
        return {job.name: checkpoints(job)[-1].read_bytes() for job in jobs}

    whole = train(builder, "run")
    for path in (tmp_path / "run").glob("block-*/step-000000010.safetensors"):
        path.unlink()
    assert train(converted("GPT-2")[1], "run") == whole, "it draws (dropout), and goes on to the byte"
    with pytest.raises(ValueError, match=r"they differ in: architecture\.name"):
        train(converted("GPT-2", seed=1)[1], "run")
    model = ob.Model.open(tmp_path / "run", backbone=builder)
    assert model.evaluate()["bits_per_byte"] < 4.8
    with pytest.raises(ValueError, match="the plan was made for backbone"):
        ob.Model.open(tmp_path / "run", backbone=converted("Llama")[1])


def test_the_contract_is_kept() -> None:
    made, builder = converted("Llama")
    z, noise, condition, _ = asked("Llama", made)
    check_backbone(builder, 6, z, noise, condition, (3, 12, SYMBOLS))
    with pytest.raises(ValueError, match="layers 6 to 7 are asked for, but there are 6"):
        builder(range(6, 8))
    assert isinstance(builder(range(1)), ConvertedBackbone)


class Two(nn.Module):
    def __init__(self, **lists: nn.Module) -> None:
        super().__init__()
        for name, layers in lists.items():
            setattr(self, name, layers)


def linears(count: int = 3) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(4, 4) for _ in range(count))


def tied() -> nn.Module:
    layer = nn.Linear(4, 4)
    return Two(layers=nn.ModuleList([layer, layer]))


def frozen() -> nn.Module:
    made = network("GPT-2")
    next(made.parameters()).requires_grad_(False)
    return made


def quantised() -> nn.Module:
    made = Two(layers=linears())
    made.register_parameter("codes", nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False))
    return made


def of_transformers(name: str, config: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        made: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**settings))
        return made

    return make


def of_diffusers(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import diffusers

        made: nn.Module = getattr(diffusers, name)(**settings)
        return made

    return make


def mixer() -> nn.Module:
    with absent():
        pytest.importorskip("timm")
        from timm.models.mlp_mixer import MlpMixer
    made: nn.Module = MlpMixer(img_size=8, patch_size=4, num_blocks=2, embed_dim=8, num_classes=4)
    return made


def from_hub() -> nn.Module:
    kind = type("HubModel", (Two,), {"__module__": "transformers_modules.somebody.model"})
    made: nn.Module = kind(layers=linears())
    return made


T5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
UNET = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip
SWIN = {
    "image_size": 16,
    "patch_size": 2,
    "num_channels": 1,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 2,
}
CONTROL = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 8,
    "out_channels": 4, "pos_embed_max_size": 8,
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "path", "message"),
    [
        (from_hub, "", "its code came with a checkpoint from the hub"),
        (of_diffusers("UNet2DModel", **UNET), "", "a U-Net joins early layers to late ones"),
        (of_diffusers("SD3ControlNetModel", **CONTROL), "", "a ControlNet hands every layer's answer"),
        (of_transformers("T5ForConditionalGeneration", "T5Config", **T5), "", "every decoder layer reads the"),
        (frozen, "", r"1 of its \d+ parameters are frozen \(transformer.wte.weight\); use requires_grad_"),
        (quantised, "", r"its weights are quantised \(codes\); load it in 32 or 16 bits"),
        (tied, "", "its layers share weights"),
        (
            lambda: Two(layers=linears(), blocks=linears(4)),
            "",
            r"several lists of layers: layers \(3 x Linear\), blocks \(4 x Linear\); give the path",
        ),
        (lambda: Two(stack=linears()), "", r"no list of layers that is known \(stack \(3 x Linear\)\); give its path"),
        (lambda: nn.Linear(3, 3), "", r"no list of layers that is known \(no ModuleList at all\)"),
        (lambda: Two(layers=linears()), "body", r"layers='body' does not exist in Two; it has layers \(3 x Linear\)"),
        (lambda: Two(layers=linears()), "layers.0", "layers='layers.0' is a Linear; a torch.nn.ModuleList or Seq"),
        (lambda: Two(layers=nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])), "", "holds layers of several kinds"),
        (
            lambda: Two(layers=nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))),
            "",
            r"keep statistics of batches \(1\)",
        ),
    ],
    ids=lambda value: "" if callable(value) else str(value)[:30],
)  # fmt: skip
def test_what_cannot_be_cut_is_refused_with_the_reason(make: Callable[[], nn.Module], path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_layers(make(), path)


@pytest.mark.parametrize(
    ("make", "words", "message"),
    [
        (
            of_transformers("SwinForImageClassification", "SwinConfig", **SWIN),
            {"outputs": 2},
            r"layer 0 of swin.encoder.layers takes a hidden state of \(2, 64, 8\) and returns \(2, 16, 16\)",
        ),
        (of_transformers("GPT2Model", "GPT2Config", **GPT2), {"outputs": 2}, "of no kind that is known"),
        (lambda: network("GPT-2"), {"outputs": 41}, "outputs=41 does not fit GPT2LMHeadModel, which answers with 40"),
        (lambda: network("BERT"), {"outputs": 40}, "none is left for the mask; resize its embeddings to 41"),
        (lambda: network("DiT"), {"outputs": 3}, "outputs=3 does not fit DiTTransformer2DModel, which answers with 2"),
        (
            of_timm("vision_transformer", "VisionTransformer", num_classes=0),
            {"outputs": 2},
            "does not fit VisionTransformer, which answers with 0; give it a head",
        ),
        (mixer, {"outputs": 2}, "MlpMixer has no patch_embed that knows the size of images"),
    ],
    ids=["swin", "no head", "too many", "no mask", "channels", "timm without head", "timm without patches"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make: Callable[[], nn.Module], words: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ob.convert(make(), **words)


def test_images_of_another_size_are_refused() -> None:
    block = converted("timm ViT")[1](range(2))
    noise, z = torch.zeros(3), torch.zeros(3, CLASSES)
    for shape, message in (
        (
            (1, 12, 12),
            r"are \(1, 12, 12\), .* for \(1, 8, 8\) \(0: any\); make it with in_chans=1, img_size=\(12, 12\)",
        ),
        ((3, 8, 8), r"are \(3, 8, 8\), and the network was made for \(1, 8, 8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            block.stem(z, noise, Frames(torch.zeros(3, *shape)))
    anysize = of_timm("vision_transformer", "VisionTransformer", dynamic_img_size=True)
    h, _ = ob.convert(anysize(), outputs=CLASSES)(range(2)).stem(z, noise, Frames(torch.zeros(3, 1, 12, 12)))
    assert h.shape == (3, 10, 32)


def test_a_network_without_configuration_is_named_by_what_it_was_made_with() -> None:
    """Heads cannot be seen in the weights; whether a network trains says nothing about it."""
    vit: Any = network("timm ViT")
    first = ob.convert(vit, outputs=CLASSES).__qualname__
    assert ob.convert(vit.eval(), outputs=CLASSES).__qualname__ == first
    more = of_timm("vision_transformer", "VisionTransformer", num_heads=4)()
    more.load_state_dict(vit.state_dict())
    assert ob.convert(more, outputs=CLASSES).__qualname__ != first


def test_a_path_decides_between_two_lists() -> None:
    assert find_layers(Two(layers=linears(), blocks=linears(4)), "blocks") == "blocks"
    assert find_layers(Two(first=Two(h=linears()), second=linears())) == "first.h"
    assert find_layers(Two(blocks=nn.Sequential(*linears()), patches=nn.Sequential(*linears()))) == "blocks"
    with pytest.raises(ValueError, match=r"no list of layers that is known \(no ModuleList at all\)"):
        find_layers(Two(blocks=nn.Sequential(nn.Linear(4, 4), nn.ReLU())))


def test_converting_loads_no_library_of_its_own() -> None:
    program = (
        "import sys, oneblock as ob; ob.convert;"
        "print([name for name in ('transformers', 'diffusers', 'timm', 'peft') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
