"""Tiny plans and what their jobs need."""

from pathlib import Path
from typing import Any

from oneblock.data import ImageSet, MemorySource, synthetic_images
from oneblock.plan import Plan, write_plan
from oneblock.presets import (
    ClassifyRecipe,
    ImageRecipe,
    blockwise,
    classify_plan,
    image_plan,
    plan_augment,
    plan_optimizer,
    plan_task,
)
from oneblock.train.loop import Run

IMAGES: ImageSet = synthetic_images(48, 8, 1, 3, seed=0)


# 4 layers of width 16 in 2 blocks on 8 x 8 images; a budget of 6 end-to-end steps of 8 images
TINY: dict[str, Any] = {
    "data": "synthetic",
    "fingerprint": IMAGES.fingerprint(),
    "image_shape": IMAGES.shape,
    "num_classes": IMAGES.num_classes,
    "depth": 4,
    "width": 16,
    "heads": 2,
    "patch": 4,
    "blocks": 2,
    "budget": 6 * 8 * 4,
    "batch_size": 8,
    "block_batch_size": 8,
}


def tiny_plan(**changes: Any) -> Plan:
    return image_plan(ImageRecipe(**TINY | changes))


def tiny_classify_recipe(**changes: Any) -> ClassifyRecipe:
    return ClassifyRecipe(**TINY | changes)


def tiny_classify_plan(**changes: Any) -> Plan:
    return classify_plan(tiny_classify_recipe(**changes))


def tiny_run(directory: Path, plan: Plan | None = None, **changes: Any) -> Run:
    """Everything that training ``plan`` in ``directory`` needs."""
    plan = plan or tiny_plan()
    write_plan(plan, directory)
    return Run(
        plan=plan,
        directory=directory,
        blockwise=blockwise(plan),
        task=plan_task(plan),
        source=MemorySource(IMAGES),
        settings=plan_optimizer(plan),
        **{"augment": plan_augment(plan), **changes},
    )
