"""Results of a full run → the tables of docs/performance.md, between its markers, and the plots and files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from . import results
from .measure import Row
from .results import Results

_GOALS = (
    ("ddos, 100 blocked sources, clean traffic", "ddos", "1 flow", 0.93),
    ("the same, 64k sources", "ddos", "64k flows", None),
    ("bridge", "bridge", "1 flow", 0.86),
    ("bridge, 64k source addresses", "bridge", "64k flows", 0.66),
    ("bridge, 64k source addresses, Zipf", "bridge", "64k Zipf", None),
    ("ddos → bridge", "ddos, bridge", "1 flow", 0.78),
    ("ddos → bridge, 64k", "ddos, bridge", "64k flows", None),
    ("router", "router", "1 flow", None),
    ("router, 64k sources", "router", "64k flows", None),
)
_LIMIT_NS_THERE = 99
"""Nanoseconds of a packet through the bare redirect on the machine that the goals were set on."""

_HOOKS = (("TC", "tc", 2.22), ("XDP generic", "generic", 2.22 * 1.25), ("XDP native", "native", 2.22 * 1.65))
"""With the Mpps of the paper's bridge on its own machine (i7-4770, 10 GbE, one core)."""

_LINUX = {"bridge": "Linux bridge", "router": "ip forward"}
_OURS, _GENERIC = "bpfchain", "generic build"


def write(found: Results, docs: Path) -> None:
    """`performance.md` with new tables, and `performance/` with plots, measured.json and measured.csv."""
    from .plots import plot  # matplotlib takes half a second to import

    page = docs / "performance.md"
    page.write_text(filled(page.read_text(encoding="utf-8"), found), encoding="utf-8")
    folder = docs / "performance"
    results.write(found, folder)
    for suffix in ("json", "csv"):
        (folder / f"latest.{suffix}").rename(folder / f"measured.{suffix}")
    plot(found.rows, found.costs, folder)


def filled(page: str, found: Results) -> str:
    """The page with every block between `<!-- NAME -->` and `<!-- end -->` written anew. Raises KeyError: no such."""

    def block(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{_BLOCKS[match[1]](found)}\n<!-- end -->"

    return re.sub(r"<!-- ([a-z-]+) -->\n.*?\n<!-- end -->", block, page, flags=re.DOTALL)


def _find(found: Results, service: str, traffic: str, contender: str = _OURS, mode: str = "native") -> Row | None:
    wanted = (service, traffic, contender, mode)
    return next((r for r in found.rows if (r.service, r.traffic, r.contender, r.mode) == wanted), None)


def _limit(found: Results, traffic: str = "1 flow", mode: str = "native") -> Row | None:
    return _find(found, "redirect", traffic, "bare redirect", mode)


def _run(found: Results) -> str:
    machine, limit = found.machine, _limit(found)
    reached = f" The bare redirect reached {limit.mpps:.2f} Mpps." if limit else ""
    return (
        f"{machine['cpu']}, {machine['cpus']} CPUs, kernel {machine['kernel']}; {found.effort.epochs} epochs,"
        f" {found.effort.seconds:.0f} s of rounds for each traffic.{reached}"
    )


def _goals(found: Results) -> str:
    lines = [_goal_cells(found, *goal) for goal in _GOALS]
    head = (
        "service and traffic",
        "Mpps",
        "ratio",
        "of medians",
        "+ ns",
        "goal",
        "at 10 Mpps",
        "× generic build",
        "× Linux",
    )
    return _table(head, (cells for cells in lines if cells))


def _goal_cells(found: Results, title: str, service: str, traffic: str, goal: float | None) -> Sequence[str] | None:
    row = _find(found, service, traffic)
    if row is None:
        return None
    limit, generic = _limit(found, traffic), _find(found, service, traffic, _GENERIC)
    linux = _find(found, service, traffic, _LINUX.get(service, ""), "kernel")
    there = _LIMIT_NS_THERE / (_LIMIT_NS_THERE + row.ns)
    return (
        title,
        f"{row.mpps:.2f}",
        f"{row.ratio_to_redirect:.3f} ± {row.spread:.3f}",
        f"{row.median_mpps / limit.median_mpps:.3f}" if limit else "–",
        f"{row.ns:.0f}",
        f"{goal:.2f}" if goal else "–",
        f"{there:.2f}",
        _times(row, generic),
        _times(row, linux),
    )


def _times(row: Row, other: Row | None) -> str:
    return f"{row.ratio_to_redirect / other.ratio_to_redirect:.2f}" if other else "–"


def _kernel(found: Results) -> str:
    rows = (row for row in found.rows if row.mode == "kernel")
    head = ("in the kernel", "traffic", "Mpps", "ratio", "latency, ns")
    return _table(
        head, ((r.contender, r.traffic, f"{r.mpps:.2f}", f"{r.ratio_to_redirect:.3f}", str(r.latency_ns)) for r in rows)
    )


def _hooks(found: Results) -> str:
    first = _find(found, "bridge", "1 flow", mode="tc")
    lines = []
    for title, mode, paper in _HOOKS:
        row, generic = (_find(found, "bridge", "1 flow", name, mode) for name in (_OURS, _GENERIC))
        if row and first:
            cells = (f"{row.mpps:.2f}", f"{row.mpps / first.mpps:.2f}", _times(row, generic), f"{row.latency_ns}")
            lines.append((title, *cells, f"{paper:.1f}", f"{paper / _HOOKS[0][2]:.2f}"))
    head = ("bridge", "Mpps", "to TC", "× generic build", "latency, ns", "paper, Mpps", "paper, to TC")
    return _table(head, lines)


def _limits(found: Results) -> str:
    """How the hooks stand to each other with nothing to do."""
    rows = [(title, _limit(found, mode=mode)) for title, mode, _ in _HOOKS]
    head = ("bare redirect", "Mpps", "to XDP native")
    return _table(head, ((title, f"{row.mpps:.2f}", f"{row.ratio_to_redirect:.2f}") for title, row in rows if row))


def _static(found: Results) -> str:
    names = (("learned, in the map", _OURS), ("static, as code", "bpfchain, static"))
    rows = [(title, _find(found, "bridge", "8 stations", name)) for title, name in names]
    head = ("eight stations", "Mpps", "ratio", "+ ns", "instructions")
    return _table(
        head,
        (
            (title, f"{row.mpps:.2f}", f"{row.ratio_to_redirect:.3f} ± {row.spread:.3f}", f"{row.ns:.0f}", _count(row))
            for title, row in rows
            if row
        ),
    )


def _features(found: Results) -> str:
    rows = [row for row in found.rows if row.service.startswith("bridge") and row.mode == "native"]
    rows = [row for row in rows if row.traffic == "1 flow"]
    head = ("bridge", "build", "ratio", "+ ns", "instructions", "the verifier went through")
    return _table(
        head,
        (
            (r.service, r.contender, f"{r.ratio_to_redirect:.3f}", f"{r.ns:.0f}", _count(r), _count(r, verified=True))
            for r in rows
        ),
    )


def _count(row: Row, *, verified: bool = False) -> str:
    count = row.verified_instructions if verified else row.instructions
    return "–" if count is None else str(count)


def _tail_calls(found: Results) -> str:
    rows = [row for row in found.rows if row.service == "tail calls"]
    return _table(
        ("calls in a row", *(row.contender for row in rows)),
        (
            ("ratio", *(f"{row.ratio_to_redirect:.3f}" for row in rows)),
            ("+ ns", *(f"{row.ns:.0f}" for row in rows)),
        ),
    )


def _costs(found: Results) -> str:
    head = ("chain", "programs", "C lines", "instructions", "compile", "from the cache", "inject")
    return _table(
        head,
        (
            (
                cost.service,
                str(cost.programs),
                str(cost.c_lines),
                str(cost.instructions),
                f"{cost.compile_ms:.0f} ms",
                f"{cost.cached_ms:.0f} ms",
                f"{cost.inject_ms:.0f} ms",
            )
            for cost in found.costs
        ),
    )


def _reloads(found: Results) -> str:
    """Frames lost under load, and the way of a changed constant from the saved file to live, without load."""
    stages = ("clang", "load", "swap")
    lines = [
        [row.mode, f"{row.swaps}", f"{row.frames:,}", f"{row.lost}", f"{row.mpps:.2f}", f"{row.live_ms:.0f} ms"]
        + [f"{row.stages_ms[stage]:.0f} ms" for stage in stages]
        for row in found.reloads
    ]
    return _table(("mode", "swaps", "frames", "lost", "Mpps", "until live", *stages), lines)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


_BLOCKS: dict[str, Callable[[Results], str]] = {
    "run": _run,
    "goals": _goals,
    "kernel": _kernel,
    "hooks": _hooks,
    "limits": _limits,
    "static": _static,
    "features": _features,
    "tail-calls": _tail_calls,
    "costs": _costs,
    "reloads": _reloads,
}
"""What stands in docs/performance.md, by the name in its markers."""
