"""Rows → the paper's figures with our figures beside them, as SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from .measure import Row

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "bpfchain"  # the same picture of the same figures, byte for byte

from matplotlib.axes import Axes  # noqa: E402  # after the choice of the backend
from matplotlib.figure import Figure  # noqa: E402

_OURS, _THEIRS, _KERNEL = "#1f5fa8", "#c8c8c8", "#d9822b"
_HOOKS = (("tc", "TC"), ("generic", "XDP generic"), ("native", "XDP native"))
_PAPER_BRIDGE = {"tc": 2.22, "generic": 2.22 * 1.25, "native": 2.22 * 1.65}
"""Mpps of the paper's bridge on its own machine (i7-4770, 10 GbE, one core)."""


def plot(rows: Sequence[Row], folder: Path) -> None:
    """`overview`, `figure-2` and `figure-4`, for those that all rows are there of. The folder exists."""
    one_flow = [row for row in rows if row.traffic == "1 flow"]
    _overview([row for row in rows if row.mode in ("native", "kernel") and row.service != "tail calls"], folder)
    if all(_row(one_flow, "bridge", "bpfchain", mode) for mode, _ in _HOOKS):
        _hooks(one_flow, folder)
    if any(row.service == "tail calls" for row in rows):
        _tail_calls([row for row in rows if row.service == "tail calls"], folder)


def _overview(rows: Sequence[Row], folder: Path) -> None:
    figure = Figure(figsize=(8, 0.6 + 0.24 * len(rows)), layout="constrained")
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


def _hooks(rows: Sequence[Row], folder: Path) -> None:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    throughput, latency = figure.subplots(1, 2)
    names = [title for _, title in _HOOKS]
    found = [row for mode, _ in _HOOKS if (row := _row(rows, "bridge", "bpfchain", mode))]
    places = range(len(_HOOKS))
    throughput.bar([at - 0.2 for at in places], [row.mpps for row in found], 0.4, color=_OURS, label="here")
    paper = [_PAPER_BRIDGE[mode] for mode, _ in _HOOKS]
    throughput.bar([at + 0.2 for at in places], paper, 0.4, color=_THEIRS, label="paper, its machine")
    throughput.set_xticks(list(places), names)
    throughput.set_ylabel("bridge, Mpps")
    throughput.legend()
    latency.bar(names, [row.latency_ns / 1000 for row in found], 0.5, color=_OURS)
    latency.set_ylabel("generator to sink, median µs")
    _save(figure, folder, "figure-2")


def _tail_calls(rows: Sequence[Row], folder: Path) -> None:
    figure = Figure(figsize=(6, 3.4), layout="constrained")
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


def _save(figure: Figure, folder: Path, name: str) -> None:
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    figure.savefig(folder / f"{name}.png", dpi=110)
