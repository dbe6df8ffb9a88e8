"""Rows → a table for people, and files for programs: latest.json and latest.csv."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from .costs import Cost
from .measure import Effort, ProgramSize, Row
from .reload import Reload
from .slow_path import Figure

_COLUMNS = (
    ("traffic", "<12", "{0.traffic}"),
    ("service", "<18", "{0.service}"),
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
    """Lines of text; `ratio` is to the bare redirect of the same epochs, `+ ns` what a packet costs above it."""
    lines = [" ".join(f"{title:{width}}" for title, width, _ in _COLUMNS)]
    for row in rows:
        cells = (f"{text.format(row).replace('None', '–'):{width}}" for _, width, text in _COLUMNS)
        lines.append(" ".join(cells))
    return "".join(f"{line.rstrip()}\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Results:
    """One run: the machine, how long each traffic was measured, rows, starting and changing chains, the slow path."""

    machine: Mapping[str, object]
    effort: Effort
    rows: tuple[Row, ...]
    costs: tuple[Cost, ...]
    reloads: tuple[Reload, ...] = ()
    slow_path: tuple[Figure, ...] = ()


def write(results: Results, folder: Path) -> None:
    """`latest.json`: the machine and one record for each row and each cost. `latest.csv`: the same rows."""
    folder.mkdir(exist_ok=True)
    content = {
        "machine": dict(results.machine),
        "seconds": results.effort.seconds,
        "epochs": results.effort.epochs,
        "rows": [row.record() for row in results.rows],
        "costs": [cost.record() for cost in results.costs],
        "reloads": [reload.record() for reload in results.reloads],
        "slow_path": [figure.record() for figure in results.slow_path],
    }
    (folder / "latest.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    names = [field.name for field in fields(Row) if field.name != "programs"]
    with (folder / "latest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row.record() for row in results.rows)


def read(file: Path) -> Results:
    """What `write` has written. Raises OSError, ValueError, KeyError or TypeError for any other file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    rows = []
    for record in content["rows"]:
        programs = tuple(ProgramSize(**program) for program in record.pop("programs"))
        rows.append(Row(**record, programs=programs))
    costs = tuple(Cost(**record) for record in content["costs"])
    reloads = tuple(Reload(**record) for record in content.get("reloads", ()))  # older results have none
    slow_path = tuple(Figure(**record) for record in content.get("slow_path", ()))
    effort = Effort(content["seconds"], content["epochs"])
    return Results(content["machine"], effort, tuple(rows), costs, reloads, slow_path)


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
    return {"kernel": platform.release().split("-")[0], "cpu": cpu, "cpus": os.cpu_count()}
