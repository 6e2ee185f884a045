"""The learning rates of ``oneblock compare evolve``: every arm with several, on seed 0.

python benchmarks/evolve_rates.py --out runs/evolve-rates [--data fashion-mnist --width 128 --budget 576k]

Prints held-out accuracy by arm and rate, and the best rate of each: ``experiment.evolve.RATES`` holds these. Goes on
where it was stopped. Measure what is reported with other seeds (``oneblock compare evolve --seed 1``).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import oneblock as ob
from oneblock.experiment.evolve import EvolveExperiment
from oneblock.train.drive import Watch

RATES = (2.5e-3, 1e-2, 4e-2)


def main() -> None:
    usual = EvolveExperiment()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--arms", nargs="+", default=list(usual.arms))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--budget", default=usual.usual.budget)
    parser.add_argument("--width", type=int, default=usual.usual.width)
    parser.add_argument("--population", type=int, default=usual.usual.population)
    parser.add_argument("--cpu-seconds", type=float, default=usual.cpu_seconds)
    options = parser.parse_args()
    found: dict[str, dict[float, float]] = {arm: {} for arm in options.arms}
    for rate in options.rates:
        comparison = ob.compare(
            replace(usual, cpu_seconds=options.cpu_seconds),
            out=options.out / f"{rate:g}",
            data=options.data,
            recipe=replace(
                usual.usual,
                learning_rate=rate,
                budget=options.budget,
                width=options.width,
                population=options.population,
            ),
            arms=options.arms,
            seeds=1,
            watch=Watch(bars=False),
        )
        for row in comparison.rows:
            found[row["arm"]][rate] = row["accuracy"]
    print(f"held-out accuracy in percent, {options.data}, seed 0")
    print("| arm | " + " | ".join(f"{rate:g}" for rate in options.rates) + " | best |")
    print("|---|" + "---|" * (len(options.rates) + 1))
    for arm, scores in found.items():
        best = max(scores, key=scores.__getitem__)
        print(f"| {arm} | " + " | ".join(f"{100 * scores[rate]:.2f}" for rate in options.rates) + f" | {best:g} |")


if __name__ == "__main__":
    main()
