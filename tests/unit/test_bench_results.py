"""What the bench makes of its measurements: quantiles, ratios, the table, the files, the plots."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from bench import compare, report, results
from bench.contenders import BareRedirect
from bench.costs import Cost
from bench.measure import Aside, Effort, Epoch, ProgramSize, Row, row
from bench.plots import plot
from bench.reload import Reload
from bench.results import Results
from bench.slow_path import Figure
from bench.traffic import Traffic

ROW = Row(
    contender="bpfchain",
    service="bridge",
    traffic="1 flow",
    mode="native",
    mpps=3.33,
    ratio_to_redirect=0.967,
    spread=0.014,
    ns=10.0,
    median_mpps=3.1,
    lost=0.0,
    latency_ns=1088,
    latency_p99_ns=1376,
    program_ns=93.6,
    instructions=524,
    verified_instructions=2092,
    programs=(ProgramSize("br0__a__xdp", 524, 2092, 2400),),
)
KERNEL = dataclasses.replace(
    ROW,
    contender="Linux bridge",
    mode="kernel",
    ratio_to_redirect=0.1934,
    program_ns=None,
    instructions=None,
    programs=(),
)
STATIONS = ("bpfchain", "bpfchain, static")
FIGURE = Figure("up, out", "native", 0.5, 0.5, 2.0, 900.0, 0.1)
COST = Cost("bridge", 2, 136, 1048, 327.5, 17.8, 51.9)


def epochs(*ns: float) -> list[Epoch]:
    """One epoch for each number, of slices that all take as long."""
    return [Epoch([each] * 90, 90, 0) for each in ns]


def figures(ours: list[Epoch], limit: list[Epoch]) -> Row:
    return row(BareRedirect(), Traffic("1 flow"), ours, limit, Aside([100], None, ()))


def test_disturbed_slices_do_not_change_a_ratio() -> None:
    disturbed = [Epoch([100.0] * 60 + [300.0] * 30, 90, 0)]
    assert figures(disturbed, epochs(100)).ratio_to_redirect == 1
    assert figures(epochs(125), epochs(100)).ratio_to_redirect == 0.8
    assert figures(epochs(125), epochs(100)).ns == 25


def test_disturbed_epochs_do_not_change_a_ratio() -> None:
    found = figures(epochs(125, 125, 125, 300, 250, 200, 400, 140), epochs(*[100] * 8))
    assert found.ratio_to_redirect == 0.8
    assert found.median_mpps < found.mpps


def test_one_lucky_epoch_does_not_make_a_ratio() -> None:
    assert figures(epochs(100, *[125] * 7), epochs(*[100] * 8)).ratio_to_redirect == 0.8


def test_the_spread_is_that_of_the_better_half() -> None:
    assert figures(epochs(125, 125, 125, 500), epochs(*[100] * 4)).spread == 0
    assert figures(epochs(100, 125, 125, 500), epochs(*[100] * 4)).spread == 0.1


def test_the_table_has_a_line_for_each_row() -> None:
    head, ours, kernel = results.table([ROW, KERNEL]).splitlines()
    assert head.split()[:4] == ["traffic", "service", "contender", "mode"]
    assert "0.967" in ours
    assert kernel.count("–") == 2
    assert len({line.index("bridge") for line in (ours, kernel)}) == 1


def test_files_have_every_field(tmp_path: Path) -> None:
    machine = {"kernel": "6.18", "cpu": "a CPU", "cpus": 2}
    reload = Reload("native", 5, 9, 0, 1.0, 60.5, {"swap": 16.0})
    written = Results(machine, Effort(3, 2), (ROW, KERNEL), (COST,), (reload,), (FIGURE,))
    results.write(written, tmp_path / "results")
    assert results.read(tmp_path / "results/latest.json") == written
    content = json.loads((tmp_path / "results/latest.json").read_text())
    wanted = {"contender", "service", "traffic", "mode", "mpps", "ratio_to_redirect", "spread", "program_ns"}
    assert wanted | {"instructions"} < set(content["rows"][0])
    assert content["rows"][0]["programs"] == [
        {"name": "br0__a__xdp", "instructions": 524, "verified_instructions": 2092, "jited_bytes": 2400}
    ]
    lines = list(csv.DictReader((tmp_path / "results/latest.csv").open()))
    assert [line["contender"] for line in lines] == ["bpfchain", "Linux bridge"]


def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    hooks = [dataclasses.replace(ROW, mode=mode) for mode in ("native", "generic", "tc")]
    calls = [dataclasses.replace(ROW, service="tail calls", contender=str(count)) for count in (0, 1, 2)]
    tailored = [dataclasses.replace(ROW, contender="generic build")]
    tailored += [dataclasses.replace(ROW, traffic="8 stations", contender=name) for name in STATIONS]
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        plot([*hooks, KERNEL, *calls, *tailored], [COST], [FIGURE], folder)
    names = {"overview", "figure-2", "figure-3", "figure-4", "table-1"}
    assert {path.name for path in (tmp_path / "first").iterdir()} == {f"{n}.{e}" for n in names for e in ("svg", "png")}
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_two_results_are_compared_row_by_row() -> None:
    machine, effort = {"kernel": "6.18"}, Effort(3, 2)
    slower = dataclasses.replace(ROW, ratio_to_redirect=0.8703)
    before, after = Results(machine, effort, (ROW, KERNEL), ()), Results(machine, effort, (slower,), ())
    head, ours, kernel = compare.table(before, after).splitlines()
    assert " ".join(head.split()) == "traffic service contender mode before after change ± before ± after"
    assert ours.split()[-5:] == ["0.967", "0.870", "-10.0%", "0.014", "0.014"]
    assert kernel.split()[-5:] == ["0.193", "–", "–", "0.014", "–"]


def test_tables_of_the_page_are_written_between_their_markers() -> None:
    page = "# Page\n\n<!-- goals -->\nold\n<!-- end -->\n\nprose\n\n<!-- costs -->\n\n<!-- end -->\n"
    limit = dataclasses.replace(ROW, service="redirect", contender="bare redirect", median_mpps=2 * ROW.median_mpps)
    found = Results({"kernel": "6.18", "cpu": "a CPU", "cpus": 2}, Effort(3, 2), (limit, ROW, KERNEL), (COST,))
    filled = report.filled(page, found)
    assert "old" not in filled
    assert "prose" in filled
    assert "| bridge | 3.33 | 0.967 ± 0.014 | 0.500 | 10 | 0.86 | 0.91 | – | 5.00 of 5.17 |" in filled
    assert "| bridge | 2 | 136 | 1048 | 328 ms | 18 ms | 52 ms |" in filled
    assert report.filled(filled, found) == filled


def test_tables_of_routers_and_of_the_slow_path() -> None:
    page = "".join(f"<!-- {name} -->\n\n<!-- end -->\n" for name in ("routes", "slow-path", "features", "kernel"))
    one = dataclasses.replace(ROW, service="router, 100,000 routes", traffic="1 destination", ratio_to_redirect=0.8)
    linux = dataclasses.replace(one, contender="ip forward", mode="kernel", ratio_to_redirect=0.25)
    tagged = dataclasses.replace(ROW, service="bridge, trunks", traffic="1 flow, VLAN 10")
    rows = (one, linux, tagged, KERNEL)
    found = Results({"kernel": "6.18", "cpu": "a CPU", "cpus": 2}, Effort(3, 2), rows, (), (), (FIGURE,))
    filled = report.filled(page, found)
    assert "| 100,000 | 0.800 ± 0.014 | 10 | 3.20 of 4.00 | – | – | – | 0.70 |" in filled
    assert "| up, out | native | 0.50 | 0.50 | 2.00 | 900 | 10% |" in filled
    assert "| Linux bridge | 1 flow |" in filled
    assert "| ip forward |" not in filled
    assert "| bridge, trunks | bpfchain | 0.967 | 10 | 524 | 2092 |" in filled


def test_every_table_of_the_page_can_be_written() -> None:
    page = (Path(__file__).parents[2] / "docs/performance.md").read_text(encoding="utf-8")
    found = results.read(Path(__file__).parents[2] / "docs/performance/measured.json")
    assert report.filled(page, found) == page, "docs/performance.md is not of docs/performance/measured.json"
