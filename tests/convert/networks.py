"""Tiny networks of other libraries with fresh weights, six layers each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from convert.without_torchvision import absent
from torch import Tensor, nn

from oneblock.convert.kinds import kind_of

SYMBOLS, CLASSES = 27, 10
IDS = 40
TEXT: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": IDS,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 30, "eos_token_id": 31,
}  # fmt: skip
PICTURE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 8,
    "patch_size": 4, "num_channels": 1, "num_labels": CLASSES,
}  # fmt: skip
TIMM: dict[str, Any] = {
    "img_size": 8, "patch_size": 4, "in_chans": 1, "num_classes": CLASSES, "embed_dim": 32, "depth": 6, "num_heads": 2,
}  # fmt: skip
GENERATOR: dict[str, Any] = {"in_channels": 1, "num_attention_heads": 2, "attention_head_dim": 16}
WORDS, TEXT_WIDTH = 5, 16
SANA: dict[str, Any] = {
    "out_channels": 1, "num_layers": 6, "num_cross_attention_heads": 2, "cross_attention_head_dim": 16,
    "cross_attention_dim": 32, "caption_channels": TEXT_WIDTH, "sample_size": 8,
}  # fmt: skip
JOINT: dict[str, Any] = {"joint_attention_dim": TEXT_WIDTH, "pooled_projection_dim": 8}
SD3: dict[str, Any] = {
    **JOINT, "out_channels": 1, "num_layers": 6, "sample_size": 8, "caption_projection_dim": 32,
    "pos_embed_max_size": 8,
}  # fmt: skip
FLUX: dict[str, Any] = {**JOINT, "in_channels": 4, "num_layers": 3, "num_single_layers": 3, "axes_dims_rope": (4, 6, 6)}
AURA: dict[str, Any] = {
    "joint_attention_dim": TEXT_WIDTH, "caption_projection_dim": 32, "out_channels": 1, "num_mmdit_layers": 3,
    "num_single_dit_layers": 3, "sample_size": 8, "pos_embed_max_size": 16,
}  # fmt: skip
PIXART: dict[str, Any] = {
    "out_channels": 2, "num_layers": 6, "sample_size": 8, "cross_attention_dim": 32, "caption_channels": TEXT_WIDTH,
    "norm_num_groups": 1,
}  # fmt: skip
SIZED: dict[str, Any] = {
    **PIXART, "attention_head_dim": 12, "cross_attention_dim": 24, "use_additional_conditions": True
}  # fmt: skip
DIT: dict[str, Any] = {
    "out_channels": 2, "num_layers": 6, "sample_size": 8, "num_embeds_ada_norm": CLASSES, "norm_num_groups": 1,
}  # fmt: skip


def _text(name: str, ending: str = "ForCausalLM", **changes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**{**TEXT, **changes})
        made: nn.Module = getattr(transformers, f"{name}{ending}")(config)
        return made

    return make


def _picture(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import transformers

        config = getattr(transformers, f"{name}Config")(**PICTURE)
        made: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
        return made

    return make


def of_timm(module: str, name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with absent():
            pytest.importorskip("timm")
            found = import_module(f"timm.models.{module}")
        made: nn.Module = getattr(found, name)(**{**TIMM, **settings})
        return made

    return make


def timm_named(name: str, **settings: Any) -> Callable[[], nn.Module]:
    """A network that timm knows by its name, so that timm builds it again."""

    def make() -> nn.Module:
        with absent():
            timm: Any = pytest.importorskip("timm")
        made: nn.Module = timm.create_model(name, **{**TIMM, **settings})
        return made

    return make


def of_diffusers(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import diffusers

        made: nn.Module = getattr(diffusers, name)(**settings)
        return made

    return make


def _generator(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return of_diffusers(name, **{**GENERATOR, **settings})


GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 6, "n_head": 2, "n_positions": 64}
DISTIL: dict[str, Any] = {"dim": 32, "n_layers": 6, "n_heads": 2, "hidden_dim": 64}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "GPT-2": _text("GPT2", "LMHeadModel", **GPT2),
    "GPT-NeoX": _text("GPTNeoX"),
    "OPT": _text("OPT", ffn_dim=64, word_embed_proj_dim=32),
    "Llama": _text("Llama", num_key_value_heads=1),
    "Mistral": _text("Mistral", num_key_value_heads=1),
    "Qwen2": _text("Qwen2", num_key_value_heads=1),
    "Qwen3": _text("Qwen3", num_key_value_heads=1, head_dim=16),
    "Gemma": _text("Gemma", num_key_value_heads=1, head_dim=16),
    "Gemma2": _text("Gemma2", num_key_value_heads=1, head_dim=16),
    "Phi": _text("Phi", num_key_value_heads=1),
    "BERT": _text("Bert", "ForMaskedLM"),
    "RoBERTa": _text("Roberta", "ForMaskedLM"),
    "ELECTRA": _text("Electra", "ForMaskedLM"),
    "ModernBERT": _text("ModernBert", "ForMaskedLM", cls_token_id=30, sep_token_id=31),
    "DistilBERT": _text("DistilBert", "ForMaskedLM", **DISTIL),
    "ViT": _picture("ViT"),
    "DeiT": _picture("DeiT"),
    "BEiT": _picture("Beit"),
    "DINOv2": _picture("Dinov2"),
    "timm ViT": timm_named("vit_tiny_patch16_224"),
    "timm ViT with registers": timm_named("vit_tiny_patch16_224", reg_tokens=4, init_values=0.1),
    "timm DeiT": timm_named("deit_tiny_distilled_patch16_224"),
    "timm BEiT": timm_named("beit_base_patch16_224", init_values=0.1, use_shared_rel_pos_bias=True),
    "timm EVA": timm_named("eva02_tiny_patch14_224"),
    "timm CaiT": timm_named("cait_xxs24_224", init_values=0.1),
    "DiT": _generator("DiTTransformer2DModel", **DIT),
    "PixArt": _generator("PixArtTransformer2DModel", **PIXART),
    "PixArt with sizes": _generator("PixArtTransformer2DModel", **SIZED),
    "Sana": _generator("SanaTransformer2DModel", **SANA, patch_size=2),
    "SanaVideo": _generator("SanaVideoTransformer3DModel", **SANA),
    "SD3": _generator("SD3Transformer2DModel", **SD3),
    "SD3 with dual attention": _generator("SD3Transformer2DModel", **SD3, dual_attention_layers=(0, 1)),
    "Flux": _generator("FluxTransformer2DModel", **FLUX),
    "Flux with guidance": _generator("FluxTransformer2DModel", **FLUX, guidance_embeds=True),
    "AuraFlow": _generator("AuraFlowTransformer2DModel", **AURA),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """A network with weights that follow from ``seed``, none of them zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = NETWORKS[name]()
        with torch.no_grad():
            for p in made.parameters():
                p.add_(0.02 * torch.randn_like(p))
    return made


def prompts(made: nn.Module) -> dict[str, Tensor] | None:
    """What a network is told of each class and of none, where it is told such; two of the words are masked."""
    wanted = kind_of(made).texts(made)
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(CLASSES + 1, WORDS, dtype=torch.bool)
    mask[:, -2:] = False
    rows = {
        "encoder_hidden_states": torch.randn(CLASSES + 1, WORDS, TEXT_WIDTH, generator=generator),
        "encoder_attention_mask": mask,
        "pooled_projections": torch.randn(CLASSES + 1, 8, generator=generator),
        "guidance": torch.full((CLASSES + 1,), 3.5),
    }
    return {argument: rows[argument] for argument in wanted} or None
