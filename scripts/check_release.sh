#!/usr/bin/env bash
# Build wheel and sdist, install both into fresh environments outside the source tree, and run the README's first
# commands there, with less work than they have in the README.
#
#   bash scripts/check_release.sh [DIRECTORY]   where everything goes; by default a temporary one, removed afterwards
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
place=${1:-$(mktemp -d)}
mkdir -p "$place"
place=$(cd "$place" && pwd)
[ $# -gt 0 ] || trap 'rm -rf "$place"' EXIT
unset PYTHONPATH  # nothing of the source tree is to be found by accident
python=${PYTHON:-python3}

echo "== building into $place/dist"
"$python" -m venv "$place/tools"
"$place/tools/bin/pip" install --quiet build
"$place/tools/bin/python" -m build --outdir "$place/dist" "$root"
wheel=$(ls "$place"/dist/*.whl)
sdist=$(ls "$place"/dist/*.tar.gz)

echo "== what is inside"
"$python" - "$wheel" "$sdist" <<'END'
import sys, tarfile, zipfile

wheel = set(zipfile.ZipFile(sys.argv[1]).namelist())
for name in ("__init__.py", "cli/completion.json", "report/html/page.html"):
    assert f"oneblock/{name}" in wheel, f"the wheel lacks {name}"
assert any(name.endswith(".safetensors") for name in wheel), "the wheel lacks the weights of the feature networks"
assert not [name for name in wheel if name.startswith(("tests/", "docs/"))], "the wheel has more than the package"
sdist = {name.partition("/")[2] for name in tarfile.open(sys.argv[2]).getnames()}
for name in ("README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "tests/conftest.py", "docs/index.md", "mkdocs.yml"):
    assert name in sdist, f"the sdist lacks {name}"
assert {name.removeprefix("oneblock/") for name in wheel if name.startswith("oneblock/")} <= {
    name.removeprefix("src/oneblock/") for name in sdist
}, "the sdist lacks files of the wheel"
print(len(wheel), "files in the wheel,", len(sdist), "in the sdist")
END

# The README's first block of Python, and its first block of commands, each with less work.
"$python" - "$root/README.md" "$place" <<'END'
import re, sys
from pathlib import Path

readme, place = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
assert code.count('"200k"') == 1
(place / "first.py").write_text(code.replace('"200k"', '"20k"'))
fenced = re.findall(r"```\w*\n(.*?)```", readme, re.DOTALL)
block = next(text for text in fenced if text.startswith("oneblock plan images"))
lines = [re.sub(r"\s+#.*", "", line) for line in block.splitlines()]
less = {"oneblock train": " --size nano --budget 20k", "oneblock evaluate": " --num-samples 200",
        "oneblock audit": " --chains 20 --cycles 4"}
lines = [line + next((more for verb, more in less.items() if line.startswith(verb)), "") for line in lines]
(place / "first.sh").write_text("set -euxo pipefail\n" + "\n".join(lines) + "\n")
END

tried() {  # ENVIRONMENT DISTRIBUTION: install it there and run the first commands in an empty folder
  echo "== $(basename "$2")"
  "$1/bin/pip" install --quiet --force-reinstall --no-deps "$2"
  rm -rf "$place/here" && mkdir "$place/here" && cd "$place/here"
  export PATH="$1/bin:$PATH"
  python -c "import oneblock; assert oneblock.__file__.startswith('$1'), oneblock.__file__; print(oneblock.__version__)"
  python ../first.py
  rm -rf runs model
  bash ../first.sh
  test -s runs/digits/report.html
  test -s digits.png
  cd "$root"
}

echo "== a fresh environment"
"$python" -m venv "$place/fresh"
"$place/fresh/bin/pip" install --quiet -c constraints.txt torch
"$place/fresh/bin/pip" install --quiet -c constraints.txt "$wheel[cli,report,images]"
tried "$place/fresh" "$wheel"
tried "$place/fresh" "$sdist"
echo "== wheel and sdist install and pass the README's first commands"
