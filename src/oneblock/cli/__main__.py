"""``oneblock VERB ...``: finds the verb, lets tyro parse its options, and turns mistakes into one clear message.

What needs no verb (the list of commands, the version, completion) is answered without torch.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module

from oneblock.cli.completion import SHELLS, script
from oneblock.version import VERSION

# Words on the command line -> module and the frozen dataclass that holds the verb's options and its `run`; one for each
# task where a verb opens a model.
VERBS: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("plan", "images"): ("plan", "PlanImages", "what training will cost: bytes and operations, before it starts"),
    ("plan", "classify"): ("plan", "PlanClassify", "the same for a classifier"),
    ("plan", "video"): ("plan", "PlanVideo", "the same for a video generator"),
    ("plan", "masked-text"): ("plan", "PlanMaskedText", "the same for masked diffusion of text"),
    ("plan", "text"): ("plan", "PlanText", "the same for an autoregressive language model"),
    ("plan", "recurrent-text"): ("plan", "PlanRecurrentText", "the same for one of recurrent depth"),
    ("train", "images"): ("train", "TrainImages", "train an image generator, one block at a time"),
    ("train", "classify"): ("train", "TrainClassify", "train a classifier of images, one block at a time"),
    ("train", "video"): ("train", "TrainVideo", "train a video generator, one block at a time"),
    ("train", "masked-text"): ("train", "TrainMaskedText", "train masked diffusion of text, one block at a time"),
    ("train", "text"): ("train", "TrainText", "train an autoregressive language model, one block at a time"),
    ("train", "recurrent-text"): ("train", "TrainRecurrentText", "train a language model of recurrent depth"),
    ("train", "bytes"): ("bytes", "TrainBytes", "train a byte model of whole numbers, without a backward pass"),
    ("self-force",): ("self_force", "SelfForce", "train a video generator on, with videos that it makes itself"),
    ("convert",): ("convert", "Convert", "train on a network that you have: as blocks, experts or specialists"),
    ("job",): ("job", "Job", "train one block of a planned run, on any machine"),
    ("launch",): ("launch", "Launch", "start the jobs of a planned run: processes, torchrun or Slurm"),
    ("sample",): ("sample", "SAMPLE", "generate images, video or text with a run or a merged model"),
    ("evaluate",): ("evaluate", "EVALUATE", "scores of a model on held-out data"),
    ("audit",): ("audit", "AUDIT", "what an image generator has memorised of its training images"),
    ("status",): ("status", "Status", "where the jobs of a run stand"),
    ("merge",): ("merge", "Merge", "make one model of a run's blocks"),
    ("export",): ("export", "Export", "give a converted network back to the library that it came from"),
    ("fsck",): ("fsck", "Fsck", "what is wrong with the files of a run, a model or a comparison, and what is good"),
    ("report",): ("report", "Report", "one HTML page of a run, a model, a comparison or an audit"),
    ("compare", "images"): ("compare", "CompareImages", "train blockwise and its rivals with the same work"),
    ("compare", "classify"): ("compare", "CompareClassify", "the same for classifiers"),
    ("compare", "video"): ("compare", "CompareVideo", "the same for video generators"),
    ("compare", "masked-text"): ("compare", "CompareMaskedText", "the same for masked diffusion of text"),
    ("compare", "text"): ("compare", "CompareText", "the same for autoregressive language models"),
    ("compare", "recurrent-text"): ("compare", "CompareRecurrentText", "the same for those of recurrent depth"),
    ("compare", "audit"): ("compare", "CompareAudit", "what each memorises of a few images, some of them planted"),
    ("compare", "relay"): ("compare", "CompareRelay", "Sudoku with and without a state that calls hand on"),
    ("compare", "evolve"): ("compare", "CompareEvolve", "a classifier by backpropagation and by evolution"),
    ("bench",): ("bench", "Bench", "methods of image generation on two tasks: do both rank them alike?"),
    ("demo",): ("demo", "Demo", "a small comparison from start to end"),
}

TRAINS = ("train", "convert", "job", "launch", "compare", "bench", "demo")
"""Verbs that leave checkpoints when they are stopped."""
COMPLETION = f"print a script that completes commands and options, for {', '.join(SHELLS)}"
CLOSED = 141
"""Exit code of a command whose reader has gone; shells report SIGPIPE this way."""
WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; 0 when it worked, 2 for the user's mistakes, 1 for a run that failed on its own or files that are
    wrong, 75 for a job that another process trains."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            return _answer(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `oneblock --help | head` has read enough; Python would complain when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED


def _answer(words: list[str]) -> int:
    if words in (["--version"], ["-V"]):
        print(f"oneblock {VERSION}")
        return 0
    if words[:1] == ["completion"]:
        return _completion(words[1:])
    for verb, (module, name, _) in VERBS.items():
        if tuple(words[: len(verb)]) == verb:
            return _run(" ".join(verb), module, name, words[len(verb) :])
    commands = _commands()
    group = {name: text for name, text in commands.items() if words and name.startswith(f"{words[0]} ")}
    asks = not words or words[0] in ("-h", "--help") or (group and words[1:] in (["-h"], ["--help"]))
    if not asks:
        print(f"oneblock: {_mistake(words, list(commands), list(group))}", file=sys.stderr)
    stream = sys.stdout if asks else sys.stderr
    print("usage: oneblock COMMAND [OPTIONS]   (oneblock COMMAND --help tells more)\n", file=stream)
    width = max(map(len, commands))
    for name, text in (group or commands).items():
        print(f"  {name:<{width}} {text}", file=stream)
    return 0 if asks else 2


def _commands() -> dict[str, str]:
    return {" ".join(verb): text for verb, (_, _, text) in VERBS.items()} | {"completion": COMPLETION}


def _mistake(words: list[str], commands: list[str], group: list[str]) -> str:
    """What is wrong with words that are not a command, and which command was perhaps meant."""
    if group and len(words) == 1:
        return f"{words[0]!r} needs one more word; use one of these"
    given = " ".join(words[:2])
    # options may follow a command of one word
    near = [close for one in (given, words[0]) for close in difflib.get_close_matches(one, group or commands, 1, 0.7)]
    if near:
        return f"{given!r} is not a command; did you mean 'oneblock {near[0]}'? Use one of these"
    return f"{given!r} is not a command; use one of these"


def _completion(words: list[str]) -> int:
    if words in (["-h"], ["--help"]):
        print(f'usage: oneblock completion {{{",".join(SHELLS)}}}\n\nFor bash: eval "$(oneblock completion bash)"')
        return 0
    if len(words) != 1 or words[0] not in SHELLS:
        print(f"oneblock: completion {' '.join(words)!r} is not known; use one of {', '.join(SHELLS)}", file=sys.stderr)
        return 2
    print(script(words[0]))
    return 0


def _run(verb: str, module: str, name: str, words: list[str]) -> int:
    try:
        return _parsed_and_run(verb, module, name, words)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from the last checkpoint" if verb.split()[0] in TRAINS else ""
        return _failed(f"stopped{goes_on}", 130)


def _parsed_and_run(verb: str, module: str, name: str, words: list[str]) -> int:
    try:
        import_module("tyro")
    except ImportError:
        print("oneblock: the command line needs tyro and rich; pip install 'oneblock[cli]'", file=sys.stderr)
        return 2
    from oneblock.cli.words import parse
    from oneblock.launch.local import BUSY
    from oneblock.train.learner import NonFiniteError
    from oneblock.train.loop import BusyError
    from oneblock.train.shown import shown

    command = getattr(import_module(f"oneblock.cli.{module}"), name)
    try:
        options = parse(command, verb, words)
    except (ValueError, *WRONG_PATH) as error:
        return _failed(error, 2)
    try:
        with shown(progress=not getattr(options, "json", False)):
            return options.run() or 0
    except BusyError as error:
        return _failed(error, BUSY)
    except (ValueError, ImportError, *WRONG_PATH) as error:
        return _failed(error, 2)
    except (OSError, NonFiniteError) as error:
        return _failed(error, 1)


def _failed(error: Exception | str, code: int) -> int:
    print(f"oneblock: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
