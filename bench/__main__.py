"""`python -m bench [--quick]`: measures, prints one table, writes bench/results/latest.json and plots."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import costs, results
from .cases import QUICK_TRAFFIC, cases, chains
from .measure import Row, measure
from .rig import Rig, pin_to_one_cpu

RESULTS = Path(__file__).parent / "results"
_QUICK_SECONDS, _SECONDS = 13, 75


def main() -> None:
    """Runs the bench as root."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="the most important rows only, in under a minute")
    arguments.add_argument(
        "--seconds", type=float, help=f"of rounds, for each traffic; default: {_SECONDS}, quick: {_QUICK_SECONDS}"
    )
    arguments.add_argument("--output", type=Path, default=RESULTS, help="folder for latest.json, latest.csv and plots")
    options = arguments.parse_args()
    seconds = options.seconds or (_QUICK_SECONDS if options.quick else _SECONDS)
    tell("compiling and injecting")
    found = costs.costs(chains())
    pin_to_one_cpu()
    rows = run(quick=options.quick, seconds=seconds)
    tell("")
    sys.stdout.write(results.table(rows))
    sys.stdout.write("\n" + costs.table(found))
    results.write(rows, found, options.output, seconds)
    if not options.quick:
        tell("plotting")
        from .plots import plot  # matplotlib takes half a second to import

        plot(rows, options.output)


def run(*, quick: bool, seconds: float) -> list[Row]:
    """All rows, traffic by traffic: each in a rig of its own."""
    chosen = [case for case in cases() if case.quick or not quick]
    kinds = QUICK_TRAFFIC if quick else tuple(dict.fromkeys(traffic for case in chosen for traffic in case.traffic))
    rows = []
    for traffic in kinds:
        with Rig() as rig:
            rows += measure(rig, [case for case in chosen if traffic in case.traffic], traffic, seconds, tell)
    return rows


def tell(text: str) -> None:
    """What is going on, for whoever waits: in place on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
    elif ": round" not in text:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
