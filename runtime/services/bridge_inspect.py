"""What `status` tells of a bridge: how full its table and its ports are, and stations that move too often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct, to_builtins

from .. import features
from ..clock import jiffies64
from ..control_maps import ControlMap
from ..describe import Findings, Inspected
from .bridge_fdb import WAYS, known_layout, optional_map
from .bridge_moves import Loop, loops

_SETS_LOOKED_AT = 4096
"""Of a larger table so many sets, strewn over it, are looked at: what is told of it is an estimate."""

_STRIDE = 0x9E3779B1
"""Odd, and near no power of two: addresses that have something in common are in sets whose numbers share some bits."""

_LOOPS_TOLD = 3
_QUOTA_WORDS, _QUOTA_REFUSED = 3, 2  # struct quota


def inspect(service: Inspected) -> Findings:
    """Runs without a daemon. Raises OSError where a map is gone."""
    usage = _usage(service)
    movers, quotas = (optional_map(service.open_map, name) for name in ("movers", "quotas"))
    found = loops(movers, service.ports) if movers is not None else ()
    ports = dict(_limited_ports(service, usage, quotas)) if quotas is not None else {}
    return Findings(
        facts=_facts(usage, found, ports),
        lines=(usage.line,),
        notes={name: port.note for name, port in ports.items()},
        problems={**_full(service.name, usage), **dict(_loops(service.name, found))},
    )


# --- the table --------------------------------------------------------------------------------------------------------


class _Usage(Struct, frozen=True):
    """Stations by port index; `full` of `sets` take no new station: all that they have are active."""

    stations: Counter[int]
    size: int
    full: int
    sets: int
    estimated: bool

    @property
    def line(self) -> str:
        full = f"; {self.full:,} of {self.sets:,} sets are full" if self.full else ""
        return f"stations: {self._about}{self.stations.total():,}, made for {self.size:,}{full}"

    @property
    def _about(self) -> str:
        return "about " if self.estimated else ""


def _usage(service: Inspected) -> _Usage:
    fdb, constants = service.open_map("fdb"), service.constants
    layout, hz = known_layout(fdb), features.hz()
    aging = layout.ticks(int(constants[f"{service.name}.fdb.aging"].removesuffix("s")) * hz, hz) + 1
    looked_at = min(layout.sets, _SETS_LOOKED_AT)
    share = layout.sets // looked_at
    stations: Counter[int] = Counter()
    full = 0
    with fdb.memory().cast("Q") as words:
        now = layout.ticks(jiffies64(), hz)
        for number in (step * _STRIDE % layout.sets for step in range(looked_at)):
            found = [word for word in words[number * WAYS : (number + 1) * WAYS].tolist() if word]
            idle = [layout.idle(word, now) for word in found]
            stations.update(layout.port(word) for word, ticks in zip(found, idle, strict=True) if ticks <= aging)
            full += len(found) == WAYS and max(idle) < aging // 2 and all(map(layout.confirmed, found))
    counted = Counter({port: count * share for port, count in stations.items()})
    return _Usage(counted, int(constants[f"{service.name}.fdb.size"]), full * share, layout.sets, share > 1)


def _full(name: str, usage: _Usage) -> dict[str, str]:
    """One set in a hundred may be full by chance where the table has as many stations as it was made for."""
    if usage.full * 100 <= usage.sets:
        return {}
    of_new = f"1 in {usage.sets / usage.full:.0f} new stations is not learned"
    refused = "no new station is learned" if usage.full == usage.sets else of_new
    stations = f"{usage.stations.total():,} stations where {usage.size:,} were expected"
    return {"table": f"the table of {name} is full, {stations}: {refused}, what is sent to it is flooded"}


# --- ports that have a limit ------------------------------------------------------------------------------------------


class _LimitedPort(Struct, frozen=True):
    """`refused`: frames of stations that were beyond the limit, since the generation was applied."""

    stations: int
    limit: int
    refused: int

    @property
    def note(self) -> str:
        refused = f", {self.refused:,} frames of others" if self.refused else ""
        return f"{self.stations:,} of {self.limit:,} stations{refused}"


def _limited_ports(service: Inspected, usage: _Usage, quotas: ControlMap) -> Iterator[tuple[str, _LimitedPort]]:
    with quotas.memory().cast("Q") as view:
        words = view.tolist()
    for index, name in enumerate(service.ports):
        limit = service.constants.get(f"{service.name}.{name}.stations.limit")
        if limit is not None:
            refused = words[index * _QUOTA_WORDS + _QUOTA_REFUSED]
            yield name, _LimitedPort(usage.stations[index], int(limit), refused)


# --- loops ------------------------------------------------------------------------------------------------------------


def _loops(name: str, found: Sequence[Loop]) -> Iterator[tuple[str, str]]:
    for loop in found[:_LOOPS_TOLD]:
        yield f"loop {loop.mac} {loop.vlan}", f"is there a loop at {name}? {loop}"
    if len(found) > _LOOPS_TOLD:
        yield "loops", f"is there a loop at {name}? {len(found) - _LOOPS_TOLD:,} more stations move too often"


def _facts(usage: _Usage, found: Sequence[Loop], ports: dict[str, _LimitedPort]) -> dict[str, Any]:
    return {
        "stations": usage.stations.total(),
        "size": usage.size,
        "sets": usage.sets,
        "full_sets": usage.full,
        "estimated": usage.estimated,
        "loops": [to_builtins(loop) for loop in found],
        "limited_ports": {name: to_builtins(port) for name, port in ports.items()},
    }
