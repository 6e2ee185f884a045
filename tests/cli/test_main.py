"""What the command line answers without a verb: commands, version, suggestions, completion. None of it needs torch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from commands import ENVIRONMENT
from completion import options_of

from oneblock import __version__
from oneblock.cli.__main__ import VERBS, main
from oneblock.cli.completion import SHELLS, read_options, script

Refused = Callable[..., str]
WITHOUT_TORCH = """
import sys
for absent in ("torch", "tyro", "rich", "numpy"):
    sys.modules[absent] = None
from oneblock.cli.__main__ import main
sys.exit(main())
"""


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: oneblock COMMAND"),
        (["--help"], "usage: oneblock COMMAND"),
        (["-h"], "usage: oneblock COMMAND"),
        (["train", "--help"], "train classify"),
        (["--version"], f"oneblock {__version__}\n"),
        (["completion", "--help"], "{bash,zsh,fish}"),
        *((["completion", shell], "oneblock") for shell in SHELLS),
    ],
)
def test_what_needs_no_torch(words: list[str], said: str) -> None:
    done = run(sys.executable, "-c", WITHOUT_TORCH, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert said in done.stdout


def test_every_verb_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {' '.join(verb)} " in out for verb in VERBS)
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "train images" in out
    assert "plan images" not in out


@pytest.mark.parametrize("module", ["oneblock", "oneblock.cli"])
def test_it_is_a_module(module: str) -> None:
    done = run(sys.executable, "-m", module, "--version")
    assert (done.returncode, done.stdout) == (0, f"oneblock {__version__}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["traim", "images"],
            "'traim images' is not a command; did you mean 'oneblock train images'? Use one of these",
        ),
        (["train", "image"], "'train image' is not a command; did you mean 'oneblock train images'?"),
        (["lanch", "runs/a"], "'lanch runs/a' is not a command; did you mean 'oneblock launch'?"),
        (["staus"], "'staus' is not a command; did you mean 'oneblock status'?"),
        (["train"], "'train' needs one more word; use one of these"),
        (["nothing"], "'nothing' is not a command; use one of these"),
        (["completion", "tcsh"], "completion 'tcsh' is not known; use one of bash, zsh, fish"),
        (["completion"], "use one of bash, zsh, fish"),
    ],
)
def test_commands_that_are_none(refused: Refused, words: list[str], message: str) -> None:
    assert message in refused(*words)


@pytest.mark.parametrize("words", [["--help"], ["status", "--help"], ["completion", "bash"]])
def test_a_reader_may_go(words: list[str]) -> None:
    """The other end of the pipe is closed before anything is written."""
    end, start = os.pipe()
    os.close(end)
    done = subprocess.run(
        [sys.executable, "-m", "oneblock", *words], env=ENVIRONMENT, stdout=start, stderr=subprocess.PIPE, text=True
    )
    os.close(start)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_completion_knows_the_options(verb: tuple[str, ...]) -> None:
    assert read_options()[" ".join(verb)] == options_of(verb), "run: python tests/completion.py"


def completed(*words: str) -> list[str]:
    """What bash offers in the place of the last word."""
    program = (
        f'{script("bash")}\nCOMP_WORDS=(oneblock "$@"); COMP_CWORD=$#; _oneblock; printf \'%s\\n\' "${{COMPREPLY[@]}}"'
    )
    done = run("bash", "-c", program, "bash", *words)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes() -> None:
    assert completed("") == [*dict.fromkeys(verb[0] for verb in VERBS), "completion", "--help", "--version"]
    assert completed("st") == ["status"]
    assert completed("train", "") == ["images", "classify", "video", "masked-text", "text", "recurrent-text", "bytes"]
    assert completed("completion", "f") == ["fish"]
    assert completed("train", "images", "--str") == ["--strategy"]
    assert completed("train", "images", "--strategy", "") == [
        "all",
        "end-to-end",
        "one-block",
        "plan-only",
        "round-robin",
    ]
    assert completed("launch", "runs/a", "--par") == ["--parallel"]
    assert completed("job", "--parallel", "") == ["ddp", "fsdp"]
    assert completed("job", "--he") == ["--help"]
    assert completed("job", "runs/") == [], "files, by bash itself"


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_accept_their_script(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = run(shell, "-n", "-c", script(shell))
    assert (done.returncode, done.stderr) == (0, "")
