"""Rows → the paper's figures with our figures beside them, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from . import paper
from .costs import Cost
from .measure import Row
from .slow_path import ROUND_TRIP, Figure

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bpfchain"  # the same picture of the same figures, byte for byte

from matplotlib.axes import Axes  # noqa: E402  # after the choice of the backend
from matplotlib.figure import Figure as Canvas  # noqa: E402

_OURS, _THEIRS, _KERNEL = "#1f5fa8", "#c8c8c8", "#d9822b"
_HOOKS = (("tc", "TC"), ("generic", "XDP generic"), ("native", "XDP native"))


def plot(rows: Sequence[Row], costs: Sequence[Cost], slow_path: Sequence[Figure], folder: Path) -> None:
    """`overview`, `figure-2` to `figure-4` and `table-1`, for those that all rows are there of. The folder exists."""
    one_flow = [row for row in rows if row.traffic == "1 flow"]
    _overview([row for row in rows if row.mode in ("native", "kernel") and row.service != "tail calls"], folder)
    if all(_row(one_flow, "bridge", "bpfchain", mode) for mode, _ in _HOOKS):
        _hooks(one_flow, [each for each in slow_path if (each.way, each.mode) == ROUND_TRIP], folder)
    _tailoring(rows, folder)
    if costs:
        _costs(costs, folder)
    if any(row.service == "tail calls" for row in rows):
        _tail_calls([row for row in rows if row.service == "tail calls"], folder)


def _overview(rows: Sequence[Row], folder: Path) -> None:
    figure = Canvas(figsize=(8, 0.6 + 0.24 * len(rows)), layout="constrained")
    axes: Axes = figure.subplots()
    labels = [f"{row.traffic} · {row.service} · {row.contender}" for row in rows]
    colours = [{"bpfchain": _OURS, "kernel": _KERNEL}.get(_kind(row), _THEIRS) for row in rows]
    axes.barh(labels, [row.ratio_to_redirect for row in rows], xerr=[row.spread for row in rows], color=colours)
    axes.invert_yaxis()
    axes.set_xlabel("throughput, bare redirect of the same traffic = 1")
    _save(figure, folder, "overview")


def _kind(row: Row) -> str:
    return "bpfchain" if row.contender.startswith("bpfchain") else row.mode


def _row(rows: Sequence[Row], service: str, contender: str, mode: str) -> Row | None:
    wanted = (service, contender, mode)
    return next((row for row in rows if (row.service, row.contender, row.mode) == wanted), None)


def _hooks(rows: Sequence[Row], round_trip: Sequence[Figure], folder: Path) -> None:
    """The bridge at each hook, and beside it every packet through user space."""
    figure = Canvas(figsize=(9, 3.4), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    names = [title for _, title in _HOOKS]
    found = [row for mode, _ in _HOOKS if (row := _row(rows, "bridge", "bpfchain", mode))]
    ours = [row.mpps for row in found] + [each.out_mpps for each in round_trip]
    theirs = [paper.BRIDGE_MPPS[mode] for mode, _ in _HOOKS] + [paper.SLOW_PATH_MPPS for _ in round_trip]
    _beside(throughput, names + ["slow path" for _ in round_trip], ours, theirs)
    throughput.set_ylabel("bridge, Mpps")
    throughput.legend()
    latency.bar(names, [row.latency_ns / 1000 for row in found], 0.5, color=_OURS)
    latency.set_ylabel("generator to sink, median µs")
    _save(figure, folder, "figure-2")


def _tailoring(rows: Sequence[Row], folder: Path) -> None:
    tailored, generic = (_ratio(rows, "1 flow", name) for name in ("bpfchain", "generic build"))
    code, table = (_ratio(rows, "8 stations", name) for name in ("bpfchain, static", "bpfchain"))
    if not (tailored and generic and code and table):
        return
    figure = Canvas(figsize=(6, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    names = ["features that are off left out", "table in code, not in a map"]
    _beside(axes, names, [tailored / generic, code / table], [paper.TAILORED, paper.CODE])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_ylabel("bridge, gain in throughput")
    axes.legend()
    _save(figure, folder, "figure-3")


def _ratio(rows: Sequence[Row], traffic: str, contender: str) -> float | None:
    """The bridge's, in native mode."""
    row = _row([row for row in rows if row.traffic == traffic], "bridge", contender, "native")
    return row.ratio_to_redirect if row else None


def _costs(costs: Sequence[Cost], folder: Path) -> None:
    figure = Canvas(figsize=(9, 3.4), layout="constrained")
    compiling, injecting = figure.subplots(1, 2)
    names = [cost.service for cost in costs]
    _beside(compiling, names, [cost.compile_ms for cost in costs], [paper.COMPILE_MS] * len(costs))
    compiling.bar([at - 0.2 for at in range(len(costs))], [cost.cached_ms for cost in costs], 0.4, color=_KERNEL)
    compiling.set_ylabel("compiling, ms (from the cache: the lower part)")
    compiling.legend()
    _beside(injecting, names, [cost.inject_ms for cost in costs], [paper.INJECT_MS] * len(costs))
    injecting.set_ylabel("injecting, ms")
    _save(figure, folder, "table-1")


def _beside(axes: Axes, names: Sequence[str], ours: Sequence[float], paper: Sequence[float]) -> None:
    """Two bars for each name: ours, and the paper's."""
    places = range(len(names))
    axes.bar([at - 0.2 for at in places], ours, 0.4, color=_OURS, label="here")
    axes.bar([at + 0.2 for at in places], paper, 0.4, color=_THEIRS, label="paper, its machine")
    axes.set_xticks(list(places), names)


def _tail_calls(rows: Sequence[Row], folder: Path) -> None:
    figure = Canvas(figsize=(6, 3.4), layout="constrained")
    axes: Axes = figure.subplots()
    calls = [int(row.contender) for row in rows]
    axes.errorbar(
        calls, [row.ratio_to_redirect for row in rows], yerr=[row.spread for row in rows], color=_OURS, marker="o"
    )
    axes.set_xticks(calls)
    axes.set_ylim(0, 1.1)
    axes.set_xlabel("tail calls in a row")
    axes.set_ylabel("throughput, no call = 1")
    _save(figure, folder, "figure-4")


def _save(figure: Canvas, folder: Path, name: str) -> None:
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=110)
