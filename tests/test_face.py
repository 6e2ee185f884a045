"""The package's own names: loaded when asked for, and not taken over by subpackages of the same name."""

import ast
import copy
import inspect
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType

import pytest
from commands import ENVIRONMENT

import oneblock as ob

NAMESAKES = ("train", "launch", "fsck", "convert", "report")
"""Functions of the package that are called like what they are in."""


def fresh(program: str) -> str:
    """What a program prints in a process that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.strip()


def test_type_checkers_see_the_places_that_are_used() -> None:
    assert ob.__file__ is not None
    tree = ast.parse(Path(ob.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"oneblock.{place}" for name, place in ob._PLACES.items()}
    assert list(seen.values()) == sorted(seen.values(), key=lambda name: name.split(".")), "in order"
    assert ob.__all__ == sorted(seen)


@pytest.mark.parametrize("name", ob.__all__)
def test_each_name_is_what_its_module_has(name: str) -> None:
    found = getattr(ob, name)
    assert found is getattr(import_module(f"oneblock.{ob._PLACES[name]}"), name)
    assert found.__doc__, "a public name is explained"


def test_every_name_is_listed() -> None:
    assert {*ob.__all__, "__version__"} <= {*dir(ob)}
    found: dict[str, object] = {}
    exec("from oneblock import *", found)
    assert found.keys() - {"__builtins__"} == {*ob.__all__}
    assert found["train"] is ob.train


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'oneblock' has no attribute 'Bogus'"):
        _ = ob.Bogus  # type: ignore[attr-defined]
    assert not hasattr(ob, "trian")


def test_only_functions_share_a_name_with_a_subpackage() -> None:
    folder = Path(ob.__path__[0])
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert {*ob.__all__} & modules == {*NAMESAKES}


@pytest.mark.parametrize("name", NAMESAKES)
def test_a_function_stays_one_whatever_is_imported(name: str) -> None:
    function = getattr(ob, name)
    package = import_module(f"oneblock.{name}")
    assert isinstance(function, FunctionType)
    assert isinstance(package, ModuleType)
    for module in ("train.loop", "train.drive", "launch.start", "launch.mirror", "convert.taps"):
        import_module(f"oneblock.{module}")
    assert getattr(ob, name) is function
    assert next(iter(inspect.signature(function).parameters)) in ("recipe", "run_dir", "directory", "network")
    assert pickle.loads(pickle.dumps(function)) is function
    assert copy.deepcopy(function) is function


@pytest.mark.parametrize(
    "program",
    [
        "import oneblock as ob; from oneblock.train.loop import Run; print(type(ob.train).__name__)",
        "from oneblock.train.loop import Run; import oneblock as ob; print(type(ob.train).__name__)",
        "import oneblock.train; import oneblock.launch.local; print(type(oneblock.launch).__name__)",
        "from oneblock import train; print(type(train).__name__)",
        "import oneblock as ob; ob.train; import oneblock.train.loop; print(type(ob.train).__name__)",
    ],
)
def test_in_any_order(program: str) -> None:
    assert fresh(program) == "function"


@pytest.mark.parametrize(
    "program",
    [
        "import oneblock.train.loop; print(oneblock.train.loop.__name__)",
        "import oneblock as ob; ob.train; import oneblock.train.loop; print(ob.train.loop.__name__)",
        "import oneblock.train.loop as loop; print(loop.__name__)",
        "from oneblock.train import loop; print(loop.__name__)",
    ],
)
def test_modules_of_the_package_are_reached_as_everywhere(program: str) -> None:
    assert fresh(program) == "oneblock.train.loop"


def test_a_patch_by_name_changes_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from oneblock.train import loop

    kept = loop.locked
    with monkeypatch.context() as patch:
        patch.setattr("oneblock.train.loop.locked", len)
        assert loop.locked is len
    assert loop.locked is kept
    with monkeypatch.context() as patch:
        patch.setattr(ob, "train", len)
        assert ob.train is len  # type: ignore[comparison-overlap]
    assert isinstance(ob.train, FunctionType)


def test_what_is_pickled_names_its_module() -> None:
    from oneblock.train.strategy import Budget

    budget = Budget(layer_evaluations=8, batch_size=2)
    assert pickle.loads(pickle.dumps(budget)) == budget


def test_importing_loads_nothing() -> None:
    program = "import sys, oneblock; print(sorted(name for name in sys.modules if name.startswith('oneblock')))"
    assert fresh(program) == "['oneblock', 'oneblock.version']"
    assert fresh("import sys, oneblock; oneblock.Plan; print('oneblock.train' in sys.modules)") == "False"
