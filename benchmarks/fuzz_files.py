"""Damage to plans, checkpoints, shards, indices, records and token files, and what every call makes of it.

    python benchmarks/fuzz_files.py --mutations 10000
    python benchmarks/fuzz_files.py --seed 4711 --mutations 1     # one case again

Each case takes a tiny run, changes one of its files and calls everything that reads it: status, fsck, merge, opening
and sampling, a job's next step, launch without starting. It is wrong when a call ends in a traceback, gives another
answer than before, leaves a part of a result, or changes a file that was there (``tests/fuzzing.py``). Adds a row to
the file of results; exit code 1 when a case was wrong.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fuzzing import Fuzz, build

RESULTS = Path(__file__).parent / "results" / "fuzz.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kinds: Counter[str] = Counter()
    wrong: list[dict[str, object]] = []
    calls = refused = 0
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "runs")
        fuzz = Fuzz(Path(folder) / "runs", Path(folder) / "work")
        for seed in range(options.seed, options.seed + options.mutations):
            case = fuzz.case(seed)
            kinds[case.target.split()[0]] += 1
            calls += case.calls
            refused += case.refused
            if case.wrong:
                wrong.append(
                    {"seed": seed, "file": f"{case.run} {case.target}", "damage": case.damage, "wrong": case.wrong}
                )
                print(json.dumps(wrong[-1]), file=sys.stderr, flush=True)
    row = {
        "mutations": options.mutations,
        "first_seed": options.seed,
        "files": dict(sorted(kinds.items())),
        "calls": calls,
        "refused": refused,
        "wrong": wrong,
        "seconds": round(time.perf_counter() - began),
    }
    with open(options.out, "a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps({**row, "wrong": len(wrong)}))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
