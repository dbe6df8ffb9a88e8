"""What a chain file says of who may be learned where in, the rules out: sticky stations, moves, limits of ports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from msgspec import Struct

from schemas.diagnostic import Span

from ...addresses import parse_duration
from ...model import Port
from ...source import Report, Value
from .rates import parse_rate

DEFAULT_MOVES = 5
DEFAULT_HOLD = timedelta(seconds=10)


class PortStations(Struct, frozen=True):
    """What holds for the stations of one port. `limit` 0: it may have as many as there is room for."""

    limit: int
    limit_span: Span
    drop_beyond: bool
    sticky: bool
    sticky_span: Span


class Moves(Struct, frozen=True):
    """How many moves a second are followed: of one `station` (so many at once), of all (`bridge`; 0: of any number)."""

    station: int
    bridge: int
    hold: timedelta
    span: Span


class Learning(Struct, frozen=True):
    """The rules of one bridge. `ports` has those that have rules of their own."""

    ports: Mapping[str, PortStations]
    moves: Moves | None
    drop_intruders: bool
    intruders_span: Span

    @property
    def limits(self) -> Mapping[str, PortStations]:
        return {name: stations for name, stations in self.ports.items() if stations.limit}

    @property
    def sticky(self) -> Mapping[str, PortStations]:
        return {name: stations for name, stations in self.ports.items() if stations.sticky}


def resolve_learning(value: Value, ports: tuple[Port, ...], report: Report) -> Learning:
    """The rules of one bridge. Reports C113, C214, C426 to C428."""
    of_ports = {
        port.name: _stations(stations, report)
        for port in ports
        if (stations := value.get("ports", port.name, "stations")) is not None
    }
    moves, intruders = value.get("fdb", "moves"), value.get("fdb", "intruders")
    learning = Learning(
        ports=of_ports,
        moves=_moves(moves, report) if moves is not None else None,
        drop_intruders=intruders is not None and intruders.data == "drop",
        intruders_span=intruders.span if intruders else value.key_span,
    )
    if intruders and not learning.sticky and value.get("fdb", "static") is None:
        message, label = "`intruders` on a bridge without static and sticky stations", "nobody's place could be taken"
        advice = "add `static` entries, give a port `stations: {sticky: true}`, or remove this"
        report.error("C428", message, intruders.key_span, label=label, help=advice)
    return learning


def _stations(value: Value, report: Report) -> PortStations:
    limit, beyond, sticky = value.get("limit"), value.get("beyond"), value.get("sticky")
    if beyond and not limit:
        message, label = "`beyond` without `limit`", "no station is ever beyond one"
        report.error("C427", message, beyond.key_span, label=label, help="write `limit`, or remove it")
    return PortStations(
        limit=limit.data if limit else 0,
        limit_span=limit.span if limit else value.key_span,
        drop_beyond=beyond is not None and beyond.data == "drop",
        sticky=sticky is not None and sticky.data,
        sticky_span=sticky.span if sticky else value.key_span,
    )


def _moves(value: Value, report: Report) -> Moves:
    station, bridge, hold = value.get("station"), value.get("bridge"), value.get("hold")
    least, most = timedelta(seconds=1), timedelta(hours=1)
    return Moves(
        station=(parse_rate(station, "moves", report) if station else None) or DEFAULT_MOVES,
        bridge=(parse_rate(bridge, "moves", report) if bridge else None) or 0,
        hold=(parse_duration(hold, report, least=least, most=most) if hold else None) or DEFAULT_HOLD,
        span=value.key_span,
    )
