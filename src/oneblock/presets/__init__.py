"""Presets: from what a user asks for (a recipe, data) to a plan, to what its jobs need, and to what it costs."""

from .base import SIZES, ImageFacts, Recipe, Size, TextFacts, end_to_end, parse_count, shallow
from .causal import CausalRecipe, block_readings, causal_task, gpt_config, plan_streams, recurrent_recipe, token_table
from .classify import PAPER_SETTINGS, ClassifyRecipe, classify_task, label_table
from .cnn import cnn_plan
from .cost import SampleFlops, all_resident, block_bytes, costliest_job, dry_run, training_flops, training_peak
from .data import open_data, plan_source
from .fit import Cost, Costs, Fit, cost
from .image import ImageRecipe, image_shape, image_task
from .masked import MaskedRecipe, is_text, masked_task, plan_length, plan_vocabulary
from .run import Trained, make_plan, open_run, start_run, train
from .tasks import blockwise, build_backbone, load_backbone, plan_augment, plan_task
from .video import VideoRecipe

__all__ = [
    "PAPER_SETTINGS",
    "SIZES",
    "CausalRecipe",
    "ClassifyRecipe",
    "Cost",
    "Costs",
    "Fit",
    "ImageFacts",
    "ImageRecipe",
    "MaskedRecipe",
    "Recipe",
    "SampleFlops",
    "Size",
    "TextFacts",
    "Trained",
    "VideoRecipe",
    "all_resident",
    "block_bytes",
    "block_readings",
    "blockwise",
    "build_backbone",
    "causal_task",
    "classify_task",
    "cnn_plan",
    "cost",
    "costliest_job",
    "dry_run",
    "end_to_end",
    "gpt_config",
    "image_shape",
    "image_task",
    "is_text",
    "label_table",
    "load_backbone",
    "make_plan",
    "masked_task",
    "open_data",
    "open_run",
    "parse_count",
    "plan_augment",
    "plan_length",
    "plan_source",
    "plan_streams",
    "plan_task",
    "plan_vocabulary",
    "recurrent_recipe",
    "shallow",
    "start_run",
    "token_table",
    "train",
    "training_flops",
    "training_peak",
]
