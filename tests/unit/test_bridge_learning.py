"""Rules of learning in a chain file: what is compiled for them, where static stations are, and every mistake."""

from __future__ import annotations

from datetime import timedelta

import pytest

from compiler.ir import Inlined, InMap, LoadTime, LoweredPort, MapDef
from compiler.lower import lower
from compiler.resolve import resolve
from compiler.source import read
from compiler.verify import verify
from schemas.manifest import Role
from tests.unit.test_bridge_model import model, printed, text

STATIC = "static: [{mac: 02:00:00:00:00:01, port: p1}, {mac: 02:00:00:00:00:02, port: p2}]"


def lowered(p1: str = "{}", fdb: str = "{}") -> LoweredPort:
    """What is special about the program for p1."""
    ir = verify(lower(resolve(read("edge.yaml", text(p1, fdb=fdb)))), "lower")
    return next(program.lowered for program in ir.programs if program.port == "p1")


def inlined(port: LoweredPort) -> dict[str, str]:
    """Literals by the fields of the configuration."""
    homes = (constant.home for constant in port.constants)
    return {home.field: home.literal for home in homes if isinstance(home, Inlined) and home.field}


def maps(port: LoweredPort) -> dict[str, MapDef]:
    return {definition.field: definition for definition in port.maps}


def test_without_rules_there_is_nothing_of_them() -> None:
    port = lowered()
    assert not {"drop_beyond", "drop_intruders"} & inlined(port).keys()
    assert not any("moves" in constant.path or "stations" in constant.path for constant in port.constants)
    assert list(maps(port)) == ["fdb"]
    assert not port.functions


def test_a_limit_is_in_the_program_of_its_port_only() -> None:
    ir = lower(resolve(read("edge.yaml", text("{stations: {limit: 32, beyond: drop}}"))))
    p1, p2 = (program.lowered for program in ir.programs)
    assert LoadTime("station_limit", 32) in {constant.home for constant in p1.constants}
    assert inlined(p1)["drop_beyond"] == "true"
    assert (maps(p1)["quotas"].max_entries, maps(p1)["quotas"].role) == (2, Role.SCRATCH)
    assert not any(constant.path.endswith("stations.limit") for constant in p2.constants)
    assert "quotas" not in maps(p2)


def test_every_program_knows_whose_stations_are_sticky() -> None:
    ir = lower(resolve(read("edge.yaml", text("{stations: {sticky: true}}", fdb="{intruders: drop}"))))
    for program in ir.programs:
        (function,) = program.lowered.functions
        assert function.field == "sticky"
        assert "case 0: /* p1 */" in function.text
        assert "case 1" not in function.text
        assert inlined(program.lowered)["drop_intruders"] == "true"


def test_moves_have_defaults() -> None:
    moves = model(fdb="{moves: {}}").learning.moves
    assert moves
    assert (moves.station, moves.bridge, moves.hold) == (5, 0, timedelta(seconds=10))
    port = lowered(fdb="{moves: {station: 2/s, bridge: 100/s, hold: 1m}}")
    assert {constant.home for constant in port.constants if constant.path.startswith("br0.fdb.moves.")} == {
        Inlined("moves.station.limited", "true"),
        Inlined("moves.station.coarse", "true"),
        LoadTime("moves.station.interval", 8_000_000_000),
        LoadTime("moves.station.tolerance", 8_000_000_000),
        Inlined("moves.bridge.limited", "true"),
        Inlined("moves.bridge.coarse", "true"),
        LoadTime("moves.bridge.interval", 160_000_000),
        LoadTime("moves.bridge.tolerance", 15_840_000_000),
        LoadTime("moves.hold", 960_000_000_000),
    }
    assert maps(port)["movers"].max_entries == 257


def test_stations_stay_for_fractions_of_a_second_too() -> None:
    port = lowered(fdb="{moves: {hold: 1.5s}}")
    (hold,) = (constant for constant in port.constants if constant.path == "br0.fdb.moves.hold")
    assert (hold.value, hold.home) == ("1500ms", LoadTime("moves.hold", 1_500_000_000 << 4))


@pytest.mark.parametrize(("inline", "code"), [("", 2), (", inline: 0", 0), (", inline: 1", 1), (", inline: 256", 2)])
def test_the_first_static_stations_are_code_and_the_others_in_a_map(inline: str, code: int) -> None:
    port = lowered(fdb=f"{{{STATIC}{inline}}}")
    paths = [f"br0.fdb.static 02:00:00:00:00:0{number}" for number in (1, 2)]
    assert [c.path for c in port.constants if c.path.startswith("br0.fdb.static")] == paths[:code]
    (text,) = [function.text for function in port.functions] or [""]
    assert text.count("case ") == code
    statics = maps(port).get("statics")
    entries = statics.entries if statics else ()
    assert [entry.path for entry in entries] == paths[code:]
    for entry in entries:
        assert isinstance(entry.home, InMap)
        last, port_index = (int(entry.path[-1]), entry.home.value)
        assert entry.home.key == bytes([2, 0, 0, 0, 0, last, 0, 0])
        assert port_index == (last - 1).to_bytes(4, "little")


ERRORS = {
    "C426 word": (
        {"fdb": "{moves: {station: often}}"},
        (
            "error[C426]: `often` is no rate of moves\n"
            " --> edge.yaml:6:28\n"
            "  |\n"
            "6 |     fdb: {moves: {station: often}}\n"
            "  |                            ^^^^^\n"
            "  = note: 1 to 100,000,000 moves a second\n"
            "  = help: for example `1000/s`\n"
        ),
    ),
    "C113 hold": (
        {"fdb": "{moves: {hold: 2h}}"},
        (
            "error[C113]: `2h` is out of range\n"
            " --> edge.yaml:6:25\n"
            "  |\n"
            "6 |     fdb: {moves: {hold: 2h}}\n"
            "  |                         ^^ out of range\n"
            "  = note: from 1s to 1h\n"
        ),
    ),
    "C427": (
        {"p1": "{stations: {beyond: drop}}"},
        (
            "error[C427]: `beyond` without `limit`\n"
            " --> edge.yaml:8:23\n"
            "  |\n"
            "8 |       p1: {stations: {beyond: drop}}\n"
            "  |                       ^^^^^^ no station is ever beyond one\n"
            "  = help: write `limit`, or remove it\n"
        ),
    ),
    "C428": (
        {"fdb": "{intruders: drop}"},
        (
            "error[C428]: `intruders` on a bridge without static and sticky stations\n"
            " --> edge.yaml:6:11\n"
            "  |\n"
            "6 |     fdb: {intruders: drop}\n"
            "  |           ^^^^^^^^^ nobody's place could be taken\n"
            "  = help: add `static` entries, give a port `stations: {sticky: true}`, or remove this\n"
        ),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_told(case: str) -> None:
    given, expected = ERRORS[case]
    assert printed(**given) == expected
