"""Freeze anew, on purpose: ``python tests/frozen/refresh.py GROUP``, e.g. ``plans``; the groups stand below."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from frozen import machinery, old, plans, rows, snapshots, training  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from oneblock.cli.__main__ import main  # noqa: E402


def ok(*words: str | Path) -> list[dict[str, Any]]:
    """Run a command that must work; its JSON lines on standard output."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code: object = main([str(word) for word in words])
        except SystemExit as stopped:  # tyro's own way out
            code = stopped.code
    if code:
        sys.exit(f"{' '.join(map(str, words))}\n{err.getvalue()}")
    return [json.loads(line) for line in out.getvalue().splitlines() if line.startswith("{")]


def refresh_plans(desk: Path) -> None:
    """Of every task the whole default plan, of all others the settings in which they differ from it."""
    results: dict[str, Any] = {}
    for number, case in enumerate(plans.CASES):
        found = plans.measure(ok, desk / f"plan-{number}", case)
        if not plans.is_base(case):
            usual = results[plans.base(case)]["settings"]
            found["settings"] = {k: v for k, v in found["settings"].items() if usual.get(k, "absent") != v}
        results[case] = found
    machinery.store(plans.FILE, results)


def refresh_checkpoints(desk: Path) -> None:
    """The digests of the last checkpoints, and the averaged weights in them."""
    results: dict[str, Any] = {}
    averages: dict[str, Tensor] = {}
    for case in training.CASES:
        training.run(ok, desk / case, case)
        results[case] = training.measure(desk / case)
        averages |= training.averages(desk / case, case)
    machinery.store(training.FILE, results)
    save_file(averages, machinery.HERE / training.AVERAGES)
    (machinery.HERE / training.AVERAGES).chmod(0o644)  # safetensors writes for the owner alone


def refresh_rows(desk: Path) -> None:
    """The rows of comparisons and of planned costs."""
    machinery.store(rows.FILE, {case: rows.measure(ok, desk / case.replace(" ", "-"), case) for case in rows.CASES})


def refresh_old_images(desk: Path) -> None:
    """The images and the loss of the old run; the run itself stays."""
    run, _ = old.copy(desk)
    save_file({"images": old.sample(ok, run)}, old.IMAGES)
    old.IMAGES.chmod(0o644)
    (row,) = ok("evaluate", run, "--num-samples", "20", "--steps", "4", "--threads", "1", "--json")
    machinery.store(old.FILE, {"loss": row["loss"]})


def refresh_help(desk: Path) -> None:
    """The help of every command."""
    snapshots.FOLDER.mkdir(exist_ok=True)
    for path in snapshots.FOLDER.glob("*.txt"):
        path.unlink()
    for case in snapshots.CASES:
        (snapshots.FOLDER / snapshots.name(case)).write_text(snapshots.measure(case))
    snapshots.VERSION.write_text(f"{snapshots.tyro.__version__}\n")


GROUPS = {
    "plans": refresh_plans,
    "checkpoints": refresh_checkpoints,
    "rows": refresh_rows,
    "old-images": refresh_old_images,
    "help": refresh_help,
}


def refresh(group: str) -> None:
    """Freeze the results of one group, made in an empty directory."""
    with tempfile.TemporaryDirectory() as folder:
        desk = Path(folder).resolve()
        os.chdir(desk)
        os.environ["ONEBLOCK_DATA"] = "data"
        machinery.prepare(desk)
        GROUPS[group](desk)
        os.chdir(ROOT)


if __name__ == "__main__":
    if not sys.argv[1:] or set(sys.argv[1:]) - set(GROUPS):
        sys.exit(f"usage: python tests/frozen/refresh.py GROUP ...   with {', '.join(GROUPS)}")
    for name in sys.argv[1:]:
        refresh(name)
