"""What the bench makes of its measurements: quantiles, ratios, the table, the files, the plots."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from bench import results
from bench.costs import Cost
from bench.measure import Row, ratio, spread
from bench.plots import plot

ROW = Row("bpfchain", "bridge", "1 flow", "native", 3.33, 0.967, 0.014, 10.0, 3.1, 0.0, 1088, 1376, 93.6, 524, 2092)
KERNEL = dataclasses.replace(ROW, contender="Linux bridge", mode="kernel", program_ns=None, instructions=None)
COST = Cost("bridge", 2, 136, 1048, 327.5, 17.8, 51.9)


def test_disturbance_does_not_change_a_ratio() -> None:
    quiet, disturbed = [100.0] * 90, [100.0] * 60 + [300.0] * 30
    assert ratio(quiet, disturbed) == 1
    assert ratio(quiet, [125.0] * 90) == 0.8


def test_spread_is_that_of_three_parts() -> None:
    assert spread([100.0] * 90, [125.0] * 90) == 0
    assert spread([100.0] * 90, [100.0, 125.0, 125.0] * 30) > 0.09


def test_the_table_has_a_line_for_each_row() -> None:
    head, ours, kernel = results.table([ROW, KERNEL]).splitlines()
    assert head.split()[:4] == ["traffic", "service", "contender", "mode"]
    assert "0.967" in ours
    assert kernel.count("–") == 2
    assert len({line.index("bridge") for line in (ours, kernel)}) == 1


def test_files_have_every_field(tmp_path: Path) -> None:
    results.write([ROW, KERNEL], [COST], tmp_path / "results", seconds=3)
    content = json.loads((tmp_path / "results/latest.json").read_text())
    assert content["rows"] == [ROW.record(), KERNEL.record()]
    assert content["costs"] == [COST.record()]
    assert content["machine"]["kernel"]
    lines = list(csv.DictReader((tmp_path / "results/latest.csv").open()))
    assert [line["contender"] for line in lines] == ["bpfchain", "Linux bridge"]


def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    hooks = [dataclasses.replace(ROW, mode=mode) for mode in ("native", "generic", "tc")]
    calls = [dataclasses.replace(ROW, service="tail calls", contender=str(count)) for count in (0, 1, 2)]
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        plot([*hooks, KERNEL, *calls], folder)
    names = {"overview", "figure-2", "figure-4"}
    assert {path.name for path in (tmp_path / "first").iterdir()} == {f"{n}.{e}" for n in names for e in ("svg", "png")}
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
