"""The model card of an exported model: what each of its networks is, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oneblock.convert.kept import Kept
from oneblock.plan import NETWORK_FOLDER, Plan

ALONE = {
    "image": (
        "A block alone answers for the noise levels of its band and for no others. Images are made by calling, at each "
        "step, the block whose band holds the noise level."
    ),
    "text": (
        "A block alone is no language model: it predicts the next symbol with the help of noisy symbols of its band, "
        "which the library does not show it. What comes out of it in the library is its answer without them."
    ),
    "masked-text": (
        "A block alone predicts masked symbols where the share of masked places is in its band. The library does not "
        "tell it the share."
    ),
    "classify": (
        "A block alone is no classifier: it denoises a noisy label of its band, which the library does not show it. "
        "What comes out of it in the library is its answer without one."
    ),
}
"""Task -> what a block is without the others."""
BUDGET = ("layer_evaluations", "batch_size", "block_batch_size", "learning_rate", "optimizer", "teacher")
"""Settings of the recipe that say how much was trained."""
LOADING = {
    "transformers": "import transformers\n\nblock = transformers.{kind}.from_pretrained({place!r})",
    "diffusers": "import diffusers\n\nblock = diffusers.{kind}.from_pretrained({place!r})",
    "timm": "import timm\n\nblock = timm.create_model({timm!r}, pretrained=True)",
}


ADAPTERS = '\n\nfrom peft import PeftModel\n\nblock = PeftModel.from_pretrained(block, "block-0")'


def card(plan: Plan, record: Kept, places: Sequence[Sequence[str]], scores: Mapping[str, Any] | None = None) -> str:
    """The text of ``README.md``.

    Args:
        record: of the network that all blocks were made of.
        places: paths of the layers of each block in its network.
        scores: on held-out data, by name.
    """
    parts = [_head(plan, record), _blocks(plan, record, places), _loading(plan, record), _training(plan)]
    parts += [_scores(scores)] if scores else []
    return "\n\n".join(parts) + "\n"


def _head(plan: Plan, record: Kept) -> str:
    return (
        f"---\nlibrary_name: {record.library}\ntags:\n- oneblock\n---\n\n"
        f"# {record.kind} in {plan.num_blocks} blocks\n\n"
        f"Trained by oneblock, one block at a time, from {record.named} (class and fingerprint of the network that it "
        f"started from), for the task `{plan.task}`. Each block is a denoiser of one band of noise levels "
        "(DiffusionBlocks, https://arxiv.org/abs/2506.14202).\n\n"
        f"{ALONE[plan.task]}"
    )


def _blocks(plan: Plan, record: Kept, places: Sequence[Sequence[str]]) -> str:
    unit = "share of masked places" if plan.task == "masked-text" else "sigma"
    lines = [f"| block | {unit}, from | to | layers of the original | where they stand |", "|---|---|---|---|---|"]
    for block, paths in enumerate(places):
        picked = ", ".join(str(record.picks[i]) for i in plan.layer_range(block))
        high, low = plan.edges[block], plan.edges[block + 1]
        lines.append(f"| `block-{block}` | {high:.4g} | {low:.4g} | {picked} | {', '.join(paths)} |")
    return "## Blocks\n\n" + "\n".join(lines)


def _loading(plan: Plan, record: Kept) -> str:
    place = NETWORK_FOLDER if record.adapters else "block-0"
    alone = LOADING[record.library].format(kind=record.kind, place=place, timm=f"local-dir:{place}")
    libraries = record.library
    if record.adapters:
        alone += ADAPTERS
        libraries += " and peft"
    return (
        "## How to load it\n\n"
        f"The network of one block, with {libraries} alone; what was added to it (`added.safetensors`: noise "
        f"levels, noisy targets) is then left out:\n\n```python\n{alone}\n```\n\n"
        "All blocks together, as they were trained (no code of this directory is run):\n\n"
        '```python\nimport oneblock as ob\n\nmodel = ob.Model.open(".", resident=1)\n```'
    )


def _training(plan: Plan) -> str:
    known = {name: plan.recipe[name] for name in BUDGET if plan.recipe.get(name)}
    lines = [
        f"| {name} | {value} |" for name, value in {"data": plan.recipe["data"], **known, "seed": plan.seed}.items()
    ]
    return (
        f"## Training\n\nPlan `{plan.hash}`, in full in `oneblock.json`.\n\n| setting | value |\n|---|---|\n"
        + "\n".join(lines)
    )


def _scores(scores: Mapping[str, Any]) -> str:
    numbers = {name: value for name, value in scores.items() if isinstance(value, int | float | str)}
    lines = [f"| {name} | {value} |" for name, value in numbers.items()]
    return "## On held-out data\n\n| score | value |\n|---|---|\n" + "\n".join(lines)
