"""Presets: from a few words (a size, a data set) to a full plan, and from a plan to what its jobs need."""

from .base import SIZES, Size, plan_budget, plan_optimizer
from .causal import CausalRecipe, block_readings, causal_plan, causal_task, gpt_config, token_table
from .classify import PAPER_SETTINGS, ClassifyRecipe, classify_plan, classify_task, label_table, paper_recipe
from .cnn import cnn_plan
from .image import ImageRecipe, image_plan, image_shape, image_task
from .jobs import (
    SampleFlops,
    all_resident,
    block_bytes,
    blockwise,
    costliest_job,
    dry_run,
    training_flops,
    training_peak,
)
from .masked import MaskedRecipe, is_text, masked_plan, masked_task, plan_length, plan_vocabulary
from .tasks import build_backbone, plan_augment, plan_task

__all__ = [
    "PAPER_SETTINGS",
    "SIZES",
    "CausalRecipe",
    "ClassifyRecipe",
    "ImageRecipe",
    "MaskedRecipe",
    "SampleFlops",
    "Size",
    "all_resident",
    "block_bytes",
    "block_readings",
    "blockwise",
    "build_backbone",
    "causal_plan",
    "causal_task",
    "classify_plan",
    "classify_task",
    "cnn_plan",
    "costliest_job",
    "dry_run",
    "gpt_config",
    "image_plan",
    "image_shape",
    "image_task",
    "is_text",
    "label_table",
    "masked_plan",
    "masked_task",
    "paper_recipe",
    "plan_augment",
    "plan_budget",
    "plan_length",
    "plan_optimizer",
    "plan_task",
    "plan_vocabulary",
    "token_table",
    "training_flops",
    "training_peak",
]
