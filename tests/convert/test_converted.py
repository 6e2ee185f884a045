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

from convert.networks import CLASSES, GPT2, NETWORKS, SYMBOLS, network, of_diffusers, of_timm, prompts
from convert.without_torchvision import absent

import oneblock as ob
from oneblock.backbone import check_backbone, forward
from oneblock.condition import ClassIds, Condition, Frames, Nothing, Tokens
from oneblock.convert.block import ConvertedBackbone
from oneblock.convert.converted import ConvertedLibrary
from oneblock.convert.discover import find_layers, layers_of
from oneblock.convert.generators import TIME_STEPS, AuraFlow, Flux, Image, PixArt, SanaVideo
from oneblock.convert.kinds import TimmClassify, kind_of
from oneblock.convert.taps import Form, forms_of
from oneblock.presets import Recipe
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch
from oneblock.train.record import read_rows

OUTPUTS = {"text": SYMBOLS, "masked-text": SYMBOLS, "classify": CLASSES, "image": 1}
RECIPES: dict[str, type[Recipe]] = {
    "text": ob.CausalRecipe, "masked-text": ob.MaskedRecipe, "classify": ob.ClassifyRecipe, "image": ob.ImageRecipe
}  # fmt: skip


OF_THE_TEXT = ("add_q_proj", "norm_added_q", "to_add_out", "ff_context")
"""Parts of a layer of two streams that make its text, which nothing reads behind the last layer of a block."""
FEW = ["GPT-2", "ModernBERT", "DeiT", "DiT", "Flux"]
"""Networks of several kinds."""
VARIANTS = [
    "timm ViT with registers",
    "timm CaiT",
    "PixArt with sizes",
    "SD3 with dual attention",
    "Flux with guidance",
]
"""Trained by the slow tests alone."""


def converted(name: str, seed: int = 0) -> tuple[nn.Module, ConvertedLibrary]:
    made = network(name, seed)
    found = ob.convert(made, outputs=OUTPUTS[kind_of(made).name], prompts=prompts(made))
    assert isinstance(found, ConvertedLibrary)
    return made, found


def asked(made: nn.Module) -> tuple[Tensor, Tensor, Condition, Callable[[], Tensor]]:
    """Noisy targets, noise, condition, and the original's answer on clean input."""
    generator = torch.Generator().manual_seed(1)
    known, noise = kind_of(made), torch.randn(3, generator=generator)
    kind = known.name
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
        if known is TimmClassify:
            return z, noise, Frames(images), lambda: net(images)
        return z, noise, Frames(images), lambda: net(pixel_values=images).logits
    labels = torch.tensor([0, 3, CLASSES])
    steps = TIME_STEPS * noise
    texts = {argument: rows[labels] for argument, rows in (prompts(made) or {}).items()}

    def original() -> Tensor:
        if known is Flux:
            return flux(net, images, steps / 1000, texts)
        if known is SanaVideo:
            found: Tensor = net(images[:, :, None], timestep=steps, **texts).sample[:, :, 0]
            return found
        more: dict[str, Any] = {"class_labels": labels} if known is Image else texts
        if known is PixArt and net.use_additional_conditions:
            sizes = {"resolution": torch.full((3, 2), 64.0), "aspect_ratio": torch.ones(3, 1)}
            more = {**texts, "added_cond_kwargs": sizes}
        answer: Tensor = net(images, timestep=steps / 1000 if known is AuraFlow else steps, **more).sample
        return answer[:, :1]

    return images, noise, ClassIds(labels, CLASSES), original


def flux(net: Any, images: Tensor, steps: Tensor, texts: dict[str, Tensor]) -> Tensor:
    """As its pipeline calls it."""
    from diffusers import FluxPipeline

    places = FluxPipeline._prepare_latent_image_ids(3, 4, 4, images.device, images.dtype)
    patches = FluxPipeline._pack_latents(images, 3, 1, 8, 8)
    answer = net(patches, timestep=steps, img_ids=places, txt_ids=torch.zeros(5, 3), **texts).sample
    unpacked: Tensor = FluxPipeline._unpack_latents(answer, 64, 64, 8)
    return unpacked


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_converted_network_answers_as_the_original(name: str) -> None:
    """To the bit, on clean input: what is new is zero at the start."""
    made, builder = converted(name)
    z, noise, condition, original = asked(made)
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
    z, noise, condition, _ = asked(made)
    before = {key: p.detach().clone() for key, p in made.named_parameters()}
    block = builder(range(2, 4)).train()
    assert list(block.layers) == ["2", "3"]
    layers = layers_of(made, builder.path)
    kept = number(made) - sum(map(number, layers)) + number(layers[2]) + number(layers[3])
    new = [part for part in (block.noise, block.noisy, *(one.modulation for one in block.layers.values())) if part]
    assert number(block) == kept + sum(map(number, new))
    forward(block, z, noise, condition).square().mean().backward()
    assert all(p.grad is None for p in made.parameters())
    for index, layer in block.layers.items():
        for key, p in layer.named_parameters():
            unread = name.startswith("SD3") and index == "3" and any(part in key for part in OF_THE_TEXT)
            assert p.grad is not None and p.grad.any() != unread, key
    torch.optim.SGD(block.parameters(), lr=0.1).step()
    assert all(p.equal(before[key]) for key, p in made.named_parameters()), "the original stays as it is"


@pytest.mark.parametrize(
    ("name", "picks"),
    [("SD3", (0, 3)), ("Flux", (0, 2)), ("Flux", (1, 5)), ("AuraFlow", (2,)), ("AuraFlow", (4, 3)), ("GPT-2", (1, 4))],
)
def test_a_few_layers_are_the_network_without_the_others(name: str, picks: tuple[int, ...]) -> None:
    """The library's own code, with the other layers taken out of its lists: the end reads what the last layer gives."""
    made, builder = converted(name)
    z, noise, condition, original = asked(made)
    block = builder.pick(picks)(range(len(picks))).eval()
    kept = layers_of(made, builder.path)
    for path in builder.path.split(","):
        layers: Any = made.get_submodule(path)
        chosen = [kept[i] for i in picks if kept[i] in list(layers)]
        made.set_submodule(path, nn.ModuleList(chosen))
    with torch.no_grad():
        assert forward(block, z, noise, condition).equal(original())


def test_prompts_are_no_part_of_a_checkpoint_but_of_the_network() -> None:
    made, builder = converted("PixArt")
    block = builder(range(2))
    assert not [name for name in block.state_dict() if name.startswith("prompts")]
    assert not list(block.prompts.parameters())
    told = block.to(torch.bfloat16).prompts(ClassIds(torch.tensor([4, 4, 10]), 10))
    assert told["encoder_hidden_states"].dtype == torch.bfloat16
    texts = prompts(made) or {}
    assert told["encoder_attention_mask"].equal(texts["encoder_attention_mask"][[4, 4, 10]])
    others = {"encoder_hidden_states": texts["encoder_hidden_states"] + 1}
    assert ob.convert(made, outputs=1, prompts=others).__qualname__ != builder.__qualname__
    with pytest.raises(ValueError, match="prompts have 11 rows, but there are 3 classes; give 4"):
        block.stem(torch.zeros(2, 1, 8, 8), torch.zeros(2), ClassIds(torch.tensor([0, 3]), 3))


def test_a_flux_is_shown_images_of_even_sizes() -> None:
    block = converted("Flux")[1](range(2))
    noise, classes = torch.zeros(2), ClassIds(torch.tensor([0, 3]), 10)
    h, carried = block.stem(torch.zeros(2, 1, 4, 6), noise, classes)
    assert block.head(h, carried).shape == (2, 1, 4, 6)
    with pytest.raises(ValueError, match="the images are 4 x 5, and a Flux is shown patches of 2 x 2"):
        block.stem(torch.zeros(2, 1, 4, 5), noise, classes)


def test_the_end_of_a_dit_reaches_into_the_first_layer_of_its_block() -> None:
    made, builder = converted("DiT")
    z, noise, condition, _ = asked(made)
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
    z, noise, condition, _ = asked(builder.network)
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


@pytest.mark.parametrize("name", [*FEW, "timm EVA", "PixArt", "SD3", "AuraFlow"])
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
    z, noise, condition, original = asked(made)
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
    [pytest.param(name, 3, marks=pytest.mark.slow if name in VARIANTS else ()) for name in NETWORKS]
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
    z, noise, condition, _ = asked(made)
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


SD3_TEXTS = {"encoder_hidden_states": torch.zeros(11, 5, 16), "pooled_projections": torch.zeros(11, 8)}


class Chain(nn.Module):
    """Layers one after the other, in ``order``; between them the network multiplies by ``between``."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2), between: float = 1.0) -> None:
        super().__init__()
        self.layers, self.order, self.between = linears(), order, between

    def forward(self, x: Tensor) -> Tensor:
        for i in self.order:
            x = self.between * self.layers[i](x)
        return x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Chain(between=2.0), "changes the hidden state between layers 0 and 1 of layers, where a block may end"),
        (Chain(order=(0, 2, 1)), "the layers in layers are not called once each, and in their order"),
        (Chain(order=(0, 1, 2, 0)), "the layers in layers are not called once each"),
        (Chain(order=(0, 1)), "3 layers in layers are called 2 times; each must be once"),
    ],
    ids=["between", "order", "twice", "left out"],
)
def test_layers_that_do_not_continue_each_other_are_refused(network: Chain, message: str) -> None:
    call = {"x": torch.ones(2, 3, 4)}
    chain = Chain()
    assert forms_of(chain, list(chain.layers), "layers", call) == [Form.BARE] * 3
    with pytest.raises(ValueError, match=message):
        forms_of(network, list(network.layers), "layers", call)


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
            of_timm("vit_tiny_patch16_224", num_classes=0),
            {"outputs": 2},
            "does not fit VisionTransformer, which answers with 0; give it a head",
        ),
        (mixer, {"outputs": 2}, "MlpMixer has no patch_embed that knows the size of images"),
        (
            lambda: network("PixArt"),
            {"outputs": 1},
            r"prompts=\[\] lack encoder_hidden_states; PixArtTransformer2DModel is told encoder_hidden_states "
            r"\(k \+ 1, t, 16\), encoder_attention_mask \(k \+ 1, t; may be left out\): one row for each of k classes",
        ),
        (
            lambda: network("Flux with guidance"),
            {"outputs": 1, "prompts": SD3_TEXTS},
            r"lack guidance; .* pooled_projections \(k \+ 1, 8\), guidance \(k \+ 1\)",
        ),
        (
            lambda: network("AuraFlow"),
            {"outputs": 1, "prompts": SD3_TEXTS},
            "hold pooled_projections, which is none of them; AuraFlowTransformer2DModel is told encoder_hidden_states",
        ),
        (
            lambda: network("SD3"),
            {"outputs": 1, "prompts": {**SD3_TEXTS, "pooled_projections": torch.zeros(11, 7)}},
            r"prompts\['pooled_projections'\] is \(11, 7\); SD3Transformer2DModel is told",
        ),
        (
            lambda: network("SD3"),
            {"outputs": 1, "prompts": {**SD3_TEXTS, "pooled_projections": torch.zeros(4, 8)}},
            r"pooled_projections \(4, 8\); all must have the same number of rows, 2 or more, and of tokens",
        ),
        (
            lambda: network("DiT"),
            {"outputs": 1, "prompts": SD3_TEXTS},
            r"are given, but DiTTransformer2DModel is told no texts; leave them out",
        ),
    ],
    ids=[
        "swin", "no head", "too many", "no mask", "channels", "timm without head", "timm without patches", "no prompts",
        "no guidance", "unknown prompts", "misshaped prompts", "uneven prompts", "prompts for none",
    ],
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
    anysize = of_timm("vit_tiny_patch16_224", dynamic_img_size=True)
    h, _ = ob.convert(anysize(), outputs=CLASSES)(range(2)).stem(z, noise, Frames(torch.zeros(3, 1, 12, 12)))
    assert h.shape == (3, 10, 32)


def test_a_network_without_configuration_is_named_by_what_it_was_made_with() -> None:
    """Heads cannot be seen in the weights; whether a network trains says nothing about it."""
    vit: Any = network("timm ViT")
    first = ob.convert(vit, outputs=CLASSES).__qualname__
    assert ob.convert(vit.eval(), outputs=CLASSES).__qualname__ == first
    more = of_timm("vit_tiny_patch16_224", num_heads=4)()
    more.load_state_dict(vit.state_dict())
    assert ob.convert(more, outputs=CLASSES).__qualname__ != first


def test_a_path_decides_between_two_lists() -> None:
    assert find_layers(Two(layers=linears(), blocks=linears(4)), "blocks") == "blocks"
    assert find_layers(Two(first=Two(h=linears()), second=linears())) == "first.h"
    assert find_layers(Two(layers=linears(), blocks=linears(4)), "blocks, layers") == "blocks,layers"
    for names in (("transformer_blocks", "single_transformer_blocks"), ("single_transformer_blocks", "joint_blocks")):
        both = Two(**{name: linears() for name in names})
        both._no_split_modules = ["Linear"]
        assert find_layers(both) == ",".join(sorted(names, key=lambda name: "single" in name))
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
