"""Rows → a table for people, and files for programs: latest.json and latest.csv."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from .costs import Cost
from .measure import Row

_COLUMNS = (
    ("traffic", "<12", "{0.traffic}"),
    ("service", "<14", "{0.service}"),
    ("contender", "<16", "{0.contender}"),
    ("mode", "<8", "{0.mode}"),
    ("Mpps", ">7", "{0.mpps:.2f}"),
    ("ratio", ">7", "{0.ratio_to_redirect:.3f}"),
    ("±", ">6", "{0.spread:.3f}"),
    ("+ ns", ">7", "{0.ns:.1f}"),
    ("latency", ">8", "{0.latency_ns}"),
    ("p99 ns", ">7", "{0.latency_p99_ns}"),
    ("program ns", ">11", "{0.program_ns}"),
    ("insns", ">6", "{0.instructions}"),
    ("verified", ">9", "{0.verified_instructions}"),
    ("lost", ">7", "{0.lost:.2%}"),
)


def table(rows: Sequence[Row]) -> str:
    """Lines of text; `ratio` is to the bare redirect of the same round, `+ ns` what a packet costs above it."""
    lines = [" ".join(f"{title:{width}}" for title, width, _ in _COLUMNS)]
    for row in rows:
        cells = (f"{text.format(row).replace('None', '–'):{width}}" for _, width, text in _COLUMNS)
        lines.append(" ".join(cells))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def write(rows: Sequence[Row], costs: Sequence[Cost], folder: Path, seconds: float) -> None:
    """`latest.json`: the machine and one record for each row and each cost. `latest.csv`: the same rows."""
    folder.mkdir(exist_ok=True)
    content: dict[str, object] = {"machine": machine(), "seconds": seconds, "rows": [row.record() for row in rows]}
    content["costs"] = [cost.record() for cost in costs]
    (folder / "latest.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with (folder / "latest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.record() for row in rows)


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {"kernel": platform.release(), "cpu": cpu, "cpus": os.cpu_count()}
