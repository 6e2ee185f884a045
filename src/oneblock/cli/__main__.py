"""``oneblock VERB ...``: finds the verb, lets tyro parse its options, and turns mistakes into one clear message."""

from __future__ import annotations

import sys
from importlib import import_module

# Words on the command line -> module and the frozen dataclass that holds the verb's options and its `run`.
VERBS: dict[tuple[str, ...], tuple[str, str, str]] = {
    ("plan", "images"): ("plan", "PlanImages", "what training will cost: bytes and operations, before it starts"),
    ("plan", "classify"): ("plan", "PlanClassify", "the same for a classifier"),
    ("plan", "masked-text"): ("plan", "PlanMaskedText", "the same for masked diffusion of text"),
    ("plan", "text"): ("plan", "PlanText", "the same for an autoregressive language model"),
    ("plan", "recurrent-text"): ("plan", "PlanRecurrentText", "the same for one of recurrent depth"),
    ("train", "images"): ("train", "TrainImages", "train an image generator, one block at a time"),
    ("train", "classify"): ("train", "TrainClassify", "train a classifier of images, one block at a time"),
    ("train", "masked-text"): ("train", "TrainMaskedText", "train masked diffusion of text, one block at a time"),
    ("train", "text"): ("train", "TrainText", "train an autoregressive language model, one block at a time"),
    ("train", "recurrent-text"): ("train", "TrainRecurrentText", "train a language model of recurrent depth"),
    ("job",): ("job", "Job", "train one block of a planned run, on any machine"),
    ("launch",): ("launch", "Launch", "start the jobs of a planned run: processes, torchrun or Slurm"),
    ("sample",): ("sample", "Sample", "generate images or text with a run or a merged model"),
    ("evaluate",): ("evaluate", "Evaluate", "scores of a model on held-out data"),
    ("status",): ("status", "Status", "where the jobs of a run stand"),
    ("merge",): ("merge", "Merge", "make one model of a run's blocks"),
    ("compare", "images"): ("compare", "CompareImages", "train blockwise and its rivals with the same work"),
    ("compare", "classify"): ("compare_classify", "CompareClassify", "the same for classifiers"),
    ("compare", "masked-text"): ("compare_masked", "CompareMaskedText", "the same for masked diffusion of text"),
    ("compare", "text"): ("compare_text", "CompareText", "the same for autoregressive language models"),
    ("compare", "recurrent-text"): ("compare_text", "CompareRecurrentText", "the same for those of recurrent depth"),
    ("demo",): ("demo", "Demo", "a small comparison from start to end"),
}

WRONG_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; 0 when it worked, 2 for the user's mistakes, 1 for a run that failed on its own, 75 for a job
    that another process trains."""
    words = sys.argv[1:] if arguments is None else arguments
    for verb, (module, name, _) in VERBS.items():
        if tuple(words[: len(verb)]) == verb:
            return _run(" ".join(verb), module, name, words[len(verb) :])
    wanted = " ".join(words[:2])
    asks = not words or words[0] in ("-h", "--help")
    stream = sys.stdout if asks else sys.stderr
    if not asks:
        print(f"oneblock: {wanted!r} is no command; use one of these", file=stream)
    print("usage: oneblock COMMAND [OPTIONS]   (oneblock COMMAND --help tells more)\n", file=stream)
    width = max(len(" ".join(verb)) for verb in VERBS)
    for verb, (_, _, text) in VERBS.items():
        print(f"  {' '.join(verb):<{width}} {text}", file=stream)
    return 0 if asks else 2


def _run(verb: str, module: str, name: str, words: list[str]) -> int:
    try:
        import tyro
    except ImportError:
        print("oneblock: the command line needs tyro and rich; pip install 'oneblock[cli]'", file=sys.stderr)
        return 2
    from oneblock.launch.local import BUSY
    from oneblock.train.learner import NonFiniteError
    from oneblock.train.loop import BusyError

    command = getattr(import_module(f"oneblock.cli.{module}"), name)
    options = tyro.cli(
        command, prog=f"oneblock {verb}", args=words, config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    )
    try:
        options.run()
    except BusyError as error:
        print(f"oneblock: {error}", file=sys.stderr)
        return BUSY
    except (ValueError, ImportError, *WRONG_PATH) as error:
        print(f"oneblock: {error}", file=sys.stderr)
        return 2
    except (OSError, NonFiniteError) as error:
        print(f"oneblock: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("oneblock: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
