"""Damage done to the files of tiny runs, and what every call makes of it.

A case is a number: it chooses a run, a file of it and what is changed there. Then everything that reads this file is
called. Whatever the damage, a call either works, and gives what it gave before, or is refused in plain words; and files
that were there are still there, unchanged.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import IMAGES, TINY

import oneblock as ob
from oneblock.data import Characters, MemorySource, TokenFile, write_tokens
from oneblock.data.tokens import FOOTER
from oneblock.experiment.results import RESULT_FILE, record, recorded
from oneblock.launch.start import commands
from oneblock.train import checkpoint
from oneblock.train.checkpoint import checkpoints
from oneblock.train.drive import Watch
from oneblock.train.learner import NonFiniteError
from oneblock.train.machine import Machine
from oneblock.train.shards import CONFIG_FILE, INDEX_FILE

WORDS = "the cat sat on the mat and a dog ran to the gate while rain fell on the old town "
SMALL = {**TINY, "depth": 2, "width": 8, "budget": 96}
TEXT = {name: value for name, value in SMALL.items() if name != "patch"} | {"length": 8}
RECIPES: dict[str, ob.ImageRecipe | ob.ClassifyRecipe | ob.MaskedRecipe | ob.CausalRecipe] = {
    "images": ob.ImageRecipe(**SMALL, branch=0.5),
    "classify": ob.ClassifyRecipe(**SMALL, table="prototypes", crop=1),
    "masked": ob.MaskedRecipe(**TEXT),
    "text": ob.CausalRecipe(**TEXT, table="co-occurrence", label_width=4),
    "recurrent": ob.CausalRecipe(**{**TEXT, "blocks": 1}, prelude=1, coda=1),
}
KEEP = Machine(threads=1, save_every=1, keep=1000)
TOKENS = "train.tokens"
ROW = {"arm": "blockwise", "seed": 0, "answers": {"calls": 3}}


Call = tuple[str, Callable[[], object]]


class EnoughError(Exception):
    """A step has been trained."""


@dataclass
class Case:
    """What a case found: the file, what was done to it, and what is wrong with the answers (nothing should be)."""

    seed: int
    run: str
    target: str
    damage: str
    calls: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def build(place: Path) -> None:
    """Tiny runs of every task, each with its model, in a folder each; and a token file."""
    tokens(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, recipe in RECIPES.items():
            run = place / name
            ob.train(recipe, data=data_of(place, name), out=run, machine=KEEP, watch=QUIET)
            ob.merge(run)
            shutil.copyfile(place / TOKENS, run / TOKENS)
            for job in run.iterdir():
                for path in checkpoints(job)[:-2]:
                    path.unlink()
            record(run, ROW)


def tokens(place: Path) -> TokenFile:
    place.mkdir(parents=True, exist_ok=True)
    return write_tokens(place / TOKENS, [Characters().encode(WORDS * 20)], Characters())


def data_of(place: Path, name: str) -> Any:
    return MemorySource(IMAGES) if name in ("images", "classify") else TokenFile(place / TOKENS)


def _enough(job: str, last: bool) -> None:
    if not last:
        raise EnoughError


QUIET = Watch(bars=False, warn=lambda message: None)
ONE_STEP = Watch(bars=False, warn=lambda message: None, sent=_enough)


# -- damage ----------------------------------------------------------------------------------------------------------

RAW = "@raw@"
TEXTS = ("1e999", "NaN", "-Infinity", "9" * 400, "[" * 20000 + "]" * 20000, "[" * 60 + "]" * 60, "1e-400", "-0.0")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, -0.5, 10**18, -(2**63), 2**63 - 1, 1e300, 1e-300, "", "x", "\0", "\ud800",
    "../../etc/passwd", "é" * 500, [], {}, [None], [[]], {"a": 1}, [0] * 50, ["x"], [True], [-1.5, 2], 1000, 4096,
)  # fmt: skip


def damage_json(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Other text with one thing changed."""
    if chance.random() < 0.2:
        return damage_bytes(content, chance)
    values = json.loads(content)
    spots = list(_spots(values))
    holder, key = chance.choice(spots)
    kind = chance.choice(("value", "value", "value", "delete", "raw", "twice", "add", "rename", "swap"))
    name, text = f"{kind} {str(key)[:40]}", ""
    if kind == "value":
        holder[key] = chance.choice(VALUES)
        name += f" = {holder[key]!r}"[:40]
    elif kind == "delete":
        del holder[key]
    elif kind == "raw":
        holder[key], text = RAW, chance.choice(TEXTS)
        name += f" = {text[:12]}"
    elif kind == "twice" and isinstance(holder, dict):
        holder[RAW], text = 1, str(key)
        return json.dumps(values).replace(f'"{RAW}"', json.dumps(text)).encode(), name
    elif kind == "add":
        (holder.__setitem__("surplus", 1) if isinstance(holder, dict) else holder.append(7))
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
    elif kind == "swap":
        other, place = chance.choice(spots)
        holder[key], other[place] = other[place], holder[key]
    try:
        done = json.dumps(values)
    except (ValueError, RecursionError):  # a swap has put a part into itself
        return damage_bytes(content, chance)
    return done.replace(f'"{RAW}"', text).encode(), name


def _spots(values: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        if not (isinstance(values, list) and key > 3):
            yield values, key
            if isinstance(value, dict | list):
                yield from _spots(value)


def damage_bytes(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Other bytes: cut, flipped, emptied, replaced, longer."""
    kind = chance.choice(("cut", "flip", "flip", "empty", "random", "zeros", "longer", "bom", "utf-16", "swapped"))
    place = chance.randrange(max(1, len(content)))
    if kind == "cut":
        return content[:place], f"cut at {place}"
    if kind == "flip":
        changed = bytearray(content or b"x")
        changed[place % len(changed)] ^= 1 << chance.randrange(8)
        return bytes(changed), f"flip at {place}"
    made = {
        "empty": b"", "random": chance.randbytes(200), "zeros": bytes(len(content)), "longer": content + b"{}\n",
        "bom": b"\xef\xbb\xbf" + content, "utf-16": content[:500].decode("latin-1").encode("utf-16"),
        "swapped": content[place:] + content[:place],
    }  # fmt: skip
    return made[kind], kind


def damage_tensors(path: Path, chance: random.Random) -> str:
    """A checkpoint or shard with other tensors or another stamp, and the right digest."""
    with safe_open(path, "pt") as file:
        values = json.loads(file.metadata()[checkpoint.METADATA_KEY])
        found = {name: file.get_tensor(name).clone() for name in file.keys()}
    values.pop("digest")
    name = chance.choice(sorted(found))
    tensor = found[name]
    kind = chance.choice(("nan", "inf", "drop", "add", "shape", "cast", "rename", "empty", "stamp", "stamp", "bare"))
    if kind in ("nan", "inf") and tensor.numel():
        tensor.reshape(-1)[chance.randrange(tensor.numel())] = float(kind)
    elif kind == "drop":
        del found[name]
    elif kind == "add":
        found[f"{name}.more"] = torch.zeros(2)
    elif kind == "shape":
        found[name] = chance.choice((tensor[None], tensor.reshape(-1)[:1], torch.cat([tensor, tensor])))
    elif kind == "cast":
        found[name] = tensor.to(chance.choice((torch.float64, torch.bfloat16, torch.int32)))
    elif kind == "rename":
        found[chance.choice(("x", f"ema/{name}", name.replace(".0.", ".x."), "layers.9.y")) + "_"] = found.pop(name)
    elif kind == "empty":
        found = {}
    elif kind == "stamp":
        key = chance.choice(sorted(values))
        values[key] = chance.choice([value for value in VALUES if value not in ("\ud800",)])
        name = f"{key} = {values[key]!r}"[:40]
    digest = checkpoint._digest(found, SimpleNamespace(**values))  # type: ignore[arg-type]
    metadata = None if kind == "bare" else {checkpoint.METADATA_KEY: json.dumps({**values, "digest": digest})}
    save_file({key: t.contiguous() for key, t in found.items()}, path, metadata=metadata)
    return f"{kind} {name}"


def damage_tokens(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A token file with another header and the right digest, or other bytes."""
    if chance.random() < 0.4:
        return damage_bytes(content, chance)
    _, length, magic = FOOTER.unpack(content[-FOOTER.size :])
    start = len(content) - FOOTER.size - length
    header, kind = damage_json(content[start : start + length], chance)
    return content[:start] + header + FOOTER.pack(hashlib.sha256(header).digest(), len(header), magic), f"header {kind}"


def damage_rows(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    """A metrics file with one line changed."""
    lines = content.splitlines(keepends=True)
    if chance.random() < 0.3 or not lines:
        return damage_bytes(content, chance)
    place = chance.randrange(len(lines))
    line, kind = damage_json(lines[place], chance)
    lines[place] = line + b"\n" if chance.random() < 0.9 else line * 5000
    return b"".join(lines), f"line {place} {kind}"


# -- what must hold --------------------------------------------------------------------------------------------------


def targets(run: Path) -> dict[str, list[Path]]:
    """The files of a run by kind."""
    jobs = [path for path in sorted(run.iterdir()) if checkpoints(path)]
    return {
        "plan": [run / "plan.json"],
        "checkpoint": [path for job in jobs for path in checkpoints(job)[-2:]],
        "shard": sorted((run / "model").glob("*.safetensors")),
        "index": [run / "model" / INDEX_FILE],
        "config": [run / "model" / CONFIG_FILE],
        "metrics": [job / "metrics.jsonl" for job in jobs],
        "heartbeat": [job / "heartbeat.json" for job in jobs],
        "tokens": [run / TOKENS],
        "result": [run / RESULT_FILE],
    }


SHARES = {
    "plan": 8, "checkpoint": 6, "shard": 4, "index": 2, "config": 2, "metrics": 1, "heartbeat": 1, "tokens": 1,
    "result": 1,
}  # fmt: skip
"""How often a file of each kind is damaged."""


class Fuzz:
    """Cases over the runs in ``template``, each done in a copy of its own in ``work``."""

    def __init__(self, template: Path, work: Path) -> None:
        self.template, self.work = template, work
        self.images = MemorySource(IMAGES)
        self.answers = {name: answers(template / name / "model") for name in RECIPES}
        self.weights = {name: shard_bytes(template / name / "model") for name in RECIPES}

    def case(self, seed: int) -> Case:
        chance = random.Random(seed)
        name = chance.choice(sorted(RECIPES))
        shutil.rmtree(self.work, ignore_errors=True)
        run = self.work / "run"
        shutil.copytree(self.template / name, run)
        kind = chance.choices(list(SHARES), list(SHARES.values()))[0]
        path = chance.choice(targets(run)[kind])
        case = Case(seed, name, f"{kind} {path.relative_to(run)}", _damage(kind, path, chance))
        for called, call in self.calls(kind, run, name, path, chance.random() < 0.8):
            self._ask(case, called, call, run)
        return case

    def calls(
        self, kind: str, run: Path, name: str, path: Path, new: bool
    ) -> Iterator[tuple[str, Callable[[], object]]]:
        """Everything that reads the damaged file; with a ``!``, what may write beside it."""
        out = self.work / "out"
        yield "fsck", lambda: self._complete(kind, run, name, path)
        if kind in ("shard", "index", "config"):
            yield "open", lambda: self._same(name, run / "model")
            yield "save", lambda: self._copy(name, run / "model", out)
            if kind == "config":
                yield "merge!", lambda: self._merged(name, run, run / "model")
            return
        if kind == "result":
            yield "recorded", lambda: recorded(run, "blockwise", {"seed": 0})
            return
        yield "status", lambda: ob.status(run)
        if kind in ("plan", "checkpoint"):
            yield "launch", lambda: commands(run)
            if path.is_file():  # without its newest checkpoint a run stands where it stood before
                yield "open", lambda: self._same(name, run)
            yield "merge", lambda: self._merged(name, run, out)
        if kind == "plan" and new:
            yield "new!", lambda: self._new(run, name)
        else:
            yield "resume!", lambda: self._resumed(run, name, path)

    def _ask(self, case: Case, called: str, call: Callable[[], object], run: Path) -> None:
        case.calls += 1
        before = contents(run)
        try:
            call()
        except EnoughError:
            pass
        except AssertionError as error:
            case.wrong.append(f"{called}: {error}")
        except (ValueError, OSError, NonFiniteError) as error:
            case.refused += 1
            plain = not isinstance(error, json.JSONDecodeError | UnicodeError) and len(str(error)) > 20
            if not plain or len(str(error)) > 3000 or " object at 0x" in str(error):
                case.wrong.append(f"{called}: {error!r}"[:400])
        except Exception as error:
            case.wrong.append(f"{called}: traceback {error!r}"[:400])
        after = contents(run)
        if called.endswith("!"):  # records and new checkpoints are written; no checkpoint may be lost
            # a block that starts from a damaged trunk is one without checkpoints of its own
            own = {name for name in before if not (" trunk/" in case.target and name.startswith("block-1/"))}
            keep = {before[name] for name in own if "step-" in name or name.endswith("plan.json")}
            lost = keep - set(after.values())
        else:
            lost = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        if lost:
            case.wrong.append(f"{called}: changed {sorted(lost)[:3]}")

    def _complete(self, kind: str, run: Path, name: str, path: Path) -> None:
        """``fsck`` finds what changes the meaning of a file."""
        found = ob.fsck(run)
        if found.good and kind in ("plan", "config", "checkpoint", "shard", "index"):
            original = self.template / name / path.relative_to(run)
            assert meaning(path) == meaning(original), "fsck calls a changed file good"

    def _same(self, name: str, place: Path) -> None:
        assert torch.equal(answers(place), self.answers[name]), "a damaged model answers, and otherwise than before"

    def _merged(self, name: str, run: Path, out: Path) -> None:
        try:
            ob.merge(run, out)
        except (ValueError, OSError):
            assert not (self.work / "out").exists(), "a merge that failed left files"
            raise
        assert shard_bytes(out) == self.weights[name], "a merged model has other weights than before"

    def _copy(self, name: str, model: Path, out: Path) -> None:
        try:
            ob.Model.open(model).save(out)
        except (ValueError, OSError):
            assert not out.exists(), "a copy that failed left files"
            raise
        assert shard_bytes(out) == self.weights[name], "a copied model has other weights than before"

    def _new(self, run: Path, name: str) -> None:
        """A run of the damaged plan, from its start."""
        new = self.work / "new"
        new.mkdir()
        shutil.copyfile(run / "plan.json", new / "plan.json")
        self._step(new, run, name, "trunk" if name == "images" else 0)

    def _resumed(self, run: Path, name: str, path: Path) -> None:
        """One more step of the job that the file belongs to; of a trunk, of a block that starts from it."""
        job = path.parent.name.removeprefix("block-")
        if job == "trunk":
            shutil.rmtree(run / "block-1")
        self._step(run, run, name, job if job.isdecimal() else 0 if job != "trunk" else 1)

    def _step(self, directory: Path, run: Path, name: str, block: int | str) -> None:
        data = self.images if name in ("images", "classify") else TokenFile(run / TOKENS)
        ob.run_job(directory, block, data=data, machine=KEEP, watch=ONE_STEP)


def _damage(kind: str, path: Path, chance: random.Random) -> str:
    if chance.random() < 0.02:
        path.unlink()
        if chance.random() < 0.5:
            path.mkdir()
            return "a directory in its place"
        return "gone"
    if kind in ("checkpoint", "shard") and chance.random() < 0.7:
        return damage_tensors(path, chance)
    by = {"checkpoint": damage_bytes, "shard": damage_bytes, "metrics": damage_rows, "tokens": damage_tokens}
    content, damage = by.get(kind, damage_json)(path.read_bytes(), chance)
    path.write_bytes(content)
    return damage


def contents(run: Path) -> dict[str, str]:
    """SHA-256 of every file but those that say that a job is at work."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def meaning(path: Path) -> object:
    """What a file says, whatever its bytes."""
    if path.suffix == ".json":
        values = json.loads(path.read_bytes())
        return values["weight_map"] if path.name == INDEX_FILE else values
    with safe_open(path, "pt") as file:
        values = json.loads(file.metadata()[checkpoint.METADATA_KEY])
        values.pop("digest")
        if not path.name.startswith("step-"):
            values = {key: value for key, value in values.items() if "step" not in key}
        return values, [(name, file.get_tensor(name).tolist()) for name in sorted(file.keys())]


def shard_bytes(model: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name).tolist() for name in file.keys()}
    return found


def answers(place: Path) -> torch.Tensor:
    """What a model says: the same every time."""
    model: Any = ob.Model.open(place)
    if model.task == "image":
        return model.sample([0, 1], steps=2).float()
    if model.task == "classify":
        return model.classify(IMAGES.images[:3]).probabilities
    texts = model.sample(1, sample_seed=1, **({"reveals": 4} if model.task == "masked-text" else {}))
    return torch.tensor(list("".join(texts).encode()))
