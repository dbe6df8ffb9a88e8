"""`python -m bench [--quick]` measures; `compare A B` shows what has changed; `docs` puts results into docs/."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from schemas.manifest import Mode

from . import compare, costs, reload, report, results, slow_path
from .cases import QUICK_TRAFFIC, cases, chains
from .measure import Effort, Row, measure
from .rig import take_one_cpu

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"

_QUICK, _FULL = Effort(seconds=5, epochs=4), Effort(seconds=60, epochs=8)
_QUICK_COSTS, _COSTS = 1, 7
"""Rounds of compiling and injecting."""

_QUICK_SWAPS, _SWAPS = 5, 50
"""Reloads of a chain under load, and as many without."""


def main() -> None:
    """One of the three commands."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the most important rows only, in about a minute")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"of rounds for each traffic at most; default: {_FULL.seconds}, {_QUICK.seconds}",
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for latest.json, latest.csv and plots")
    commands = parser.add_subparsers(dest="command")
    comparison = commands.add_parser("compare", help="two results, row by row")
    comparison.add_argument("before", type=Path)
    comparison.add_argument("after", type=Path)
    documentation = commands.add_parser("docs", help="docs/performance.md from a full run's results")
    documentation.add_argument("results", type=Path, nargs="?", default=RESULTS / "latest.json")
    options = parser.parse_args()
    match options.command:
        case "compare":
            sys.stdout.write(compare.table(results.read(options.before), results.read(options.after)))
        case "docs":
            found = results.read(options.results)
            if found.effort.epochs < _FULL.epochs:
                parser.error(f"{options.results} is of a quick run: `make bench` measures for the page")
            report.write(found, DOCS)
        case _:
            run(options.quick, options.seconds, options.output)


def run(quick: bool, seconds: float | None, output: Path) -> None:
    """Measures as root, prints one table, writes latest.json, latest.csv and (unless quick) the plots."""
    standard = _QUICK if quick else _FULL
    effort = Effort(seconds or standard.seconds, standard.epochs)
    tell("compiling and injecting")
    found = costs.costs(chains(), _QUICK_COSTS if quick else _COSTS)
    tell("reloading under load")
    changed = reload.reloads((Mode.NATIVE,) if quick else tuple(Mode), _QUICK_SWAPS if quick else _SWAPS)
    tell("the slow path")
    up = [slow_path.measure(*slow_path.ROUND_TRIP)] if quick else slow_path.figures()
    take_one_cpu()
    rows = rows_of(quick, effort)
    tell("")
    sys.stdout.write("\n".join((results.table(rows), costs.table(found), reload.table(changed), slow_path.table(up))))
    measured = results.Results(results.machine(), effort, tuple(rows), tuple(found), tuple(changed), tuple(up))
    results.write(measured, output)
    if not quick:
        tell("plotting")
        from .plots import plot  # matplotlib takes half a second to import

        plot(rows, found, up, output)
        tell("")


def rows_of(quick: bool, effort: Effort) -> list[Row]:
    """All rows, traffic by traffic."""
    chosen = [case for case in cases() if case.quick or not quick]
    kinds = QUICK_TRAFFIC if quick else tuple(dict.fromkeys(traffic for case in chosen for traffic in case.traffic))
    rows: list[Row] = []
    for traffic in kinds:
        rows += measure([case for case in chosen if traffic in case.traffic], traffic, effort, tell)
    return rows


class _Progress:
    """What is going on, for whoever waits: in place on a terminal, else a line for each epoch."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[K{text}")
        elif text and (stage := text.split(": ")[0]) != self._shown:
            self._shown = stage
            sys.stderr.write(f"{stage}\n")
        sys.stderr.flush()


tell = _Progress()


if __name__ == "__main__":
    main()
