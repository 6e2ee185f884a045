"""Autoencoders of diffusers with few random weights, as directories."""

from pathlib import Path
from typing import Any

import pytest
import torch

SMALL: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "latent_channels": 3,
        "norm_num_groups": 4,
        "sample_size": 8,
        "scaling_factor": 0.7,
        "shift_factor": 0.1,
    },
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 1],
        "num_res_blocks": 1,
        "temperal_downsample": [True, True],
        "latents_mean": [0.1, 0.0, -0.1, 0.2],
        "latents_std": [1.0, 2.0, 0.5, 1.5],
    },
    "AutoencoderKLHunyuanVideo": {
        "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
        "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
        "block_out_channels": (4, 4, 4, 4),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
    },
    "AutoencoderKLLTXVideo": {
        "block_out_channels": (4, 4, 4, 4),
        "decoder_block_out_channels": (4, 4, 4, 4),
        "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5,
        "latent_channels": 8,
        "scaling_factor": 0.7,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32, 32, 32, 32),
        "decoder_block_out_channels": (32, 32, 32, 32),
        "layers_per_block": (1,) * 5,
        "latent_channels": 4,
        "latents_mean": [0.0] * 4,
        "latents_std": [2.0] * 4,
    },
    "AutoencoderKLMagvit": {
        "block_out_channels": [4, 4, 4, 4],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
    },
    "AutoencoderKLCosmos": {
        "encoder_block_out_channels": (4, 4, 4, 4),
        "decode_block_out_channels": (4, 4, 4, 4),
        "attention_resolutions": (8,),
        "resolution": 64,
        "num_layers": 1,
        "latent_channels": 4,
        "latents_mean": None,
        "latents_std": None,
    },
}


def save_small(path: Path, kind: str, seed: int = 0, **changes: Any) -> Path:
    """A directory of ``kind``; one of images takes grey, 2 x 2 pixels a place."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    grey = {"in_channels": 1, "out_channels": 1} if kind in ("AutoencoderKL", "AutoencoderKLWan") else {}
    getattr(diffusers, kind)(**{**SMALL[kind], **grey, **changes}).save_pretrained(path)
    return path
