"""Results of a full run → the tables of docs/performance.md, between its markers, and the plots and files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from . import paper, results, tables
from .measure import Row
from .results import Results
from .tables import MANY_DESTINATIONS, ONE_DESTINATION
from .traffic import Traffic

_GOALS = (
    ("ddos, 100 blocked sources, clean traffic", "ddos", "1 flow", 0.93),
    ("the same, 64k sources", "ddos", "64k flows", None),
    ("bridge", "bridge", "1 flow", 0.86),
    ("bridge, 64k source addresses", "bridge", "64k flows", 0.66),
    ("bridge, 64k source addresses, Zipf", "bridge", "64k Zipf", None),
    ("ddos → bridge", "ddos, bridge", "1 flow", 0.78),
    ("ddos → bridge, 64k", "ddos, bridge", "64k flows", None),
    ("router", "router", "1 flow", 0.82),
    ("router, 64k sources", "router", "64k flows", None),
    ("ddos → bridge → router", "ddos, bridge, router", "1 flow", 0.60),
    ("ddos → bridge → router, 64k", "ddos, bridge, router", "64k flows", None),
)
_ROUTES_GOALS = {10: 0.82, 100_000: 0.70, 1_000_000: 0.60}
_LIMIT_NS_THERE = 99
"""Nanoseconds of a packet through the bare redirect on the machine that the goals were set on."""

_HOOKS = (("TC", "tc"), ("XDP generic", "generic"), ("XDP native", "native"))
_ONE_FLOW = ("1 flow", "1 flow, VLAN 10")
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
    plot(found.rows, found.costs, found.slow_path, folder)


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
        f" up to {found.effort.seconds:.0f} s of rounds for each traffic.{reached}"
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
        _times_linux(found, row),
    )


def _times_linux(found: Results, row: Row) -> str:
    """To the kernel's own service; and what the bare redirect is to that, the most that can be reached."""
    linux = next(
        (r for r in found.rows if (r.service, r.traffic, r.mode) == (row.service, row.traffic, "kernel")), None
    )
    return f"{_times(row, linux)} of {1 / linux.ratio_to_redirect:.2f}" if linux else "–"


def _times(row: Row, other: Row | None) -> str:
    return f"{row.ratio_to_redirect / other.ratio_to_redirect:.2f}" if other else "–"


def _kernel(found: Results) -> str:
    spread = (ONE_DESTINATION.name, MANY_DESTINATIONS.name)  # those are with the routers of the same tables
    rows = (row for row in found.rows if row.mode == "kernel" and row.traffic not in spread)
    head = ("in the kernel", "traffic", "Mpps", "ratio", "latency, ns")
    return _table(
        head, ((r.contender, r.traffic, f"{r.mpps:.2f}", f"{r.ratio_to_redirect:.3f}", str(r.latency_ns)) for r in rows)
    )


def _hooks(found: Results) -> str:
    first = _find(found, "bridge", "1 flow", mode="tc")
    lines = []
    for title, mode in _HOOKS:
        row, generic = (_find(found, "bridge", "1 flow", name, mode) for name in (_OURS, _GENERIC))
        if row and first:
            cells = (f"{row.mpps:.2f}", f"{row.mpps / first.mpps:.2f}", _times(row, generic), f"{row.latency_ns}")
            theirs = paper.BRIDGE_MPPS[mode]
            lines.append((title, *cells, f"{theirs:.1f}", f"{theirs / paper.BRIDGE_MPPS['tc']:.2f}"))
    head = ("bridge", "Mpps", "to TC", "× generic build", "latency, ns", "paper, Mpps", "paper, to TC")
    return _table(head, lines)


def _limits(found: Results) -> str:
    """How the hooks stand to each other with nothing to do."""
    rows = [(title, _limit(found, mode=mode)) for title, mode in _HOOKS]
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
    rows = [row for row in rows if row.traffic in _ONE_FLOW]
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
    """Frames lost under load, and the way of a change from the saved file to live, without load."""
    stages = ("clang", "load", "swap")
    lines = [
        [row.mode, f"{row.swaps}", f"{row.frames:,}", f"{row.lost}", f"{row.mpps:.2f}"]
        + [f"{row.stages_ms[stage]:.0f} ms" for stage in stages]
        + [" / ".join(f"{ms:.0f}" if ms else "–" for ms in way) for way in row.ways]
        for row in found.reloads
    ]
    ways = ("number: API", "command", "code: API", "command")
    return _table(("mode", "swaps", "frames", "lost", "Mpps", *stages, *ways), lines)


def _routes(found: Results) -> str:
    """Routers by the number of their routes."""
    traffics, cells = (ONE_DESTINATION, MANY_DESTINATIONS), ("ratio", "+ ns", "× Linux")
    head = ("routes", *(f"{traffic.name}: {cell}" for traffic in traffics for cell in cells), "goal")
    lines = []
    for size in tables.SIZES:
        if not any(_find(found, tables.service(size), traffic.name) for traffic in traffics):
            continue
        found_cells = [cell for traffic in traffics for cell in _routes_cells(found, size, traffic)]
        lines.append([f"{size:,}", *found_cells, f"{_ROUTES_GOALS[size]:.2f}" if size in _ROUTES_GOALS else "–"])
    return _table(head, lines)


def _routes_cells(found: Results, size: int, traffic: Traffic) -> Sequence[str]:
    row = _find(found, tables.service(size), traffic.name)
    if row is None:
        return ("–", "–", "–")
    return f"{row.ratio_to_redirect:.3f} ± {row.spread:.3f}", f"{row.ns:.0f}", _times_linux(found, row)


def _slow_path(found: Results) -> str:
    """What goes up to the daemon, and down again."""
    head = ("way", "mode", "up, Mpps", "down, Mpps", "daemon, µs", "alone, µs", "refused")
    return _table(
        head,
        (
            (
                each.way,
                each.mode,
                f"{each.up_mpps:.2f}",
                f"{each.out_mpps:.2f}" if each.alone_us else "–",
                f"{each.daemon_us:.2f}",
                f"{each.alone_us:.0f}" if each.alone_us else "–",
                f"{each.refused:.0%}",
            )
            for each in found.slow_path
        ),
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of Markdown."""
    found = list(lines)
    if not found:
        return "Not measured in this run."
    rows = [head, ["---"] * len(head), *found]
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
    "routes": _routes,
    "slow-path": _slow_path,
}
"""What stands in docs/performance.md, by the name in its markers."""
