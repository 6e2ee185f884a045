"""The import order (CONTRIBUTING.md), read from the syntax tree; imports inside functions count too."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from commands import ENVIRONMENT

SRC = Path(__file__).parents[1] / "src"
LINKS = (
    ("version", "checks", "plain", "cpus", "seeds"),
    ("ops",),
    ("noise", "precondition", "table", "data", "metrics", "optim", "condition"),
    ("partition", "calibrate", "backbone", "schedule", "state", "framewise"),
    ("models", "relay", "projection"),
    ("plan", "convert"),
    ("blockwise",),
    ("guidance", "sample"),
    ("tasks",),
    ("train", "memory"),
    ("presets", "rivals", "audit"),
    ("launch",),
    ("evaluate", "job"),
    ("model",),
    ("experiment",),
    ("fsck",),
    ("report",),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, link in enumerate(LINKS) for name in link}
NEVER = {"blockwise": ("models", "convert")}  # earlier links, yet closed: they first meet in presets
CORE = {"torch", "einops", "safetensors", *sys.stdlib_module_names}
MAY_USE_OTHERS = {"data", "metrics", "optim", "convert", "train", "launch", "report", "cli"}
MAY_USE_OTHERS_AT_IMPORT = {"launch", "cli"}
DOOR = {"timm": "convert", "transformers": "convert", "diffusers": "convert", "submitit": "launch", "torchao": "optim"}
EXTRAS = [
    "tyro",
    "rich",
    "av",
    "matplotlib",
    "jinja2",
    "tensorboard",
    "sklearn",
    "PIL",
    "kornia",
    "datasets",
    "tokenizers",
    *DOOR,
]


def module_name(path: str) -> str:
    parts = ["oneblock", *PurePosixPath(path).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: str, tree: ast.AST, modules: set[str]) -> Iterator[tuple[int, str, bool]]:
    """Line, full name, and whether it happens on use (in a function, or for the type checker alone)."""
    deferred: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            deferred.append(node)
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            deferred += node.body
    on_use = {id(inner) for node in deferred for inner in ast.walk(node)}
    here = module_name(path).split(".") + ["__init__"] * path.endswith("__init__.py")
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = here[: -node.level] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            full = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in modules else base for name in full]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        yield from ((node.lineno, name, id(node) in on_use) for name in names)


def objection(top: str, name: str, on_use: bool) -> str | None:
    """Why a module under `top` ("" is the package root) must not import `name`; None if it may."""
    head, _, rest = name.partition(".")
    goal = rest.partition(".")[0]
    if head in CORE:
        return None
    if head != "oneblock":
        if DOOR.get(head, top) != top or top not in MAY_USE_OTHERS:
            return f"{name} has no door here; allowed in {DOOR.get(head, sorted(MAY_USE_OTHERS))}"
        at_import = top not in MAY_USE_OTHERS_AT_IMPORT or head in DOOR
        return f"import {name} inside the function that uses it" if at_import and not on_use else None
    if not goal:
        return "imports the package root; name the submodule"
    if goal not in RANK:
        return f"{name} is unknown; give it a place in LINKS"
    if goal in NEVER.get(top, ()) or (RANK[goal] >= RANK[top or "cli"] and goal != top):
        return f"must not import {name}"
    return None


def problems(sources: dict[str, str]) -> list[str]:
    """Everything wrong with a package given as {path below src/oneblock: source}."""
    folders = {str(folder) for path in sources for folder in PurePosixPath(path).parents} - {"."}
    modules = {module_name(path) for path in {*sources, *folders}} - {"oneblock"}
    found, graph = [], {}
    for path, source in sources.items():
        module = module_name(path)
        top = module.split(".")[1] if "." in module else ""
        if top and top not in RANK:
            found.append(f"{path}: {top} is unknown; give it a place in LINKS")
        seen = list(imports(path, ast.parse(source), modules))
        graph[module] = {name for _, name, _ in seen if name in modules}
        reasons = ((line, objection(top, name, on_use)) for line, name, on_use in seen if top in {"", *RANK})
        found += [f"{path}:{line}: {reason}" for line, reason in reasons if reason]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found.append("cycle: " + " <- ".join(error.args[1]))
    return found


def test_the_package_keeps_the_order():
    root = SRC / "oneblock"
    sources = {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in root.rglob("*.py")}
    assert sources, f"no module found under {root}"
    assert not (found := problems(sources)), "\n" + "\n".join(found)


PACKAGE = {
    "__init__.py": "from oneblock.noise import LogNormal\nfrom oneblock import plan",
    "__main__.py": "from oneblock.cli.__main__ import main",
    "noise.py": "import math\nimport torch.nn.functional as F",
    "partition.py": "from oneblock.noise import LogNormal",
    "condition.py": "import torch",
    "backbone.py": "from oneblock.condition import Condition",
    "plan.py": "from .partition import Partition",
    "models/vit.py": "from einops import rearrange\nfrom oneblock.backbone import forward",
    "blockwise.py": "from oneblock import partition, plan",
    "sample/__init__.py": "from .ode import euler\nfrom oneblock.sample import grids",
    "sample/grids.py": "",
    "sample/ode.py": "from oneblock.sample import grids\nfrom oneblock.sample.grids import equal_mass",
    "convert/from_timm.py": "def f():\n    import timm",
    "metrics/__init__.py": "def f():\n    import numpy",
    "optim/adamw.py": "def f():\n    import torchao",
    "launch/slurm.py": "if TYPE_CHECKING:\n    import submitit",
    "cli/__main__.py": "import tyro\nfrom oneblock import presets\nfrom oneblock.train import loop",
    "train/loop.py": "from oneblock.blockwise import Blockwise",
    "presets.py": "from oneblock.models.vit import ViT\nfrom oneblock.train.loop import fit",
}


def test_a_clean_package_passes():
    assert problems(PACKAGE) == []


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("noise.py", "from oneblock.plan import Plan", "must not import oneblock.plan"),
        ("noise.py", "def f():\n    from oneblock.plan import Plan", "noise.py:2: must not"),
        ("noise.py", "from . import plan", "must not import oneblock.plan"),
        ("noise.py", "from oneblock.metrics import fid", "must not import oneblock.metrics"),
        ("presets.py", "import oneblock.launch", "must not import oneblock.launch"),
        ("blockwise.py", "from oneblock.models.vit import ViT", "must not import oneblock.models.vit"),
        ("backbone.py", "from oneblock.models.vit import ViT", "must not import oneblock.models.vit"),
        ("models/dit.py", "from ..blockwise import Blockwise", "must not import oneblock.blockwise"),
        ("__init__.py", "from oneblock.cli.__main__ import main", "must not import oneblock.cli"),
        ("__init__.py", "if TYPE_CHECKING:\n    from oneblock.cli import plan", "must not import oneblock.cli"),
        ("__init__.py", "def f():\n    import oneblock.cli.plan", "must not import oneblock.cli"),
        ("cli/plan.py", "from oneblock.__main__ import main", "must not import oneblock.__main__"),
        ("noise.py", "import oneblock", "imports the package root"),
        ("cli/plan.py", "from oneblock import LogNormal", "imports the package root"),
        ("cli/plan.py", "from .. import LogNormal", "imports the package root"),
        ("helpers.py", "", "helpers is unknown; give it a place"),
        ("cli/plan.py", "from oneblock.helpers import f", "oneblock.helpers is unknown; give it a place"),
        ("data/sources.py", "import numpy", "import numpy inside the function"),
        ("noise.py", "def f():\n    import numpy", "numpy has no door here"),
        ("__init__.py", "import numpy", "numpy has no door here"),
        ("models/vit.py", "def f():\n    import timm", "timm has no door here; allowed in convert"),
        ("train/step.py", "def f():\n    import torchao", "torchao has no door here; allowed in optim"),
        ("optim/adamw.py", "import torchao", "import torchao inside the function"),
        ("cli/plan.py", "def f():\n    import submitit", "submitit has no door here; allowed in launch"),
        ("launch/slurm.py", "import submitit", "import submitit inside the function"),
        ("noise.py", "import importlib\nimportlib.import_module('scipy.stats')", "scipy.stats has no door"),
        ("sample/grids.py", "def f():\n    from oneblock.sample import ode", "cycle: "),
        ("sample/grids.py", "from oneblock.sample import euler", "cycle: "),
    ],
)
def test_the_checker_sees(path, source, message):
    assert message in "\n".join(problems({**PACKAGE, path: source}))


@pytest.mark.parametrize(
    ("then", "absent"), [("", [*EXTRAS, "torch"]), ("; [getattr(oneblock, name) for name in oneblock.__all__]", EXTRAS)]
)
def test_import_loads_no_extra(then, absent):
    """Neither when the package is imported, nor when all its names are asked for."""
    names = [*absent, "oneblock.cli"]
    code = f"import sys, oneblock{then}; print(*(name for name in {names} if name in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == []


def test_benchmarks_examples_and_tests_of_the_library_import_no_command_line():
    """Tests of the command line, of what is frozen, and the fixtures that call it, excepted."""
    root = SRC.parent
    allowed = {"tests/conftest.py", "tests/completion.py", "tests/test_layers.py"}
    found = []
    for folder in ("benchmarks", "examples", "tests"):
        for path in (root / folder).rglob("*.py"):
            name = path.relative_to(root).as_posix()
            if name.startswith(("tests/cli/", "tests/frozen/")) or name in allowed:
                continue
            seen = imports(name, ast.parse(path.read_text("utf-8")), {"oneblock.cli"})
            found += [f"{name}:{line}: {what}" for line, what, _ in seen if what.startswith("oneblock.cli")]
    assert not found, "\n".join(found)


def test_processes_of_the_tests_import_this_tree(tmp_path: Path) -> None:
    where = "import oneblock; print(oneblock.__file__)"
    done = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(SRC)
