"""What a chain file says of storms on a bridge in, how many frames of each sort a port may flood out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from schemas.diagnostic import Span

from ...model import Port
from ...source import Report, Value
from ...words import show

SORTS = ("broadcast", "multicast", "unknown")  # enum storm_sort
_MOST = 100_000_000
_RATE = re.compile(r"([0-9]{1,9})\s*/\s*s")


@dataclass(frozen=True, slots=True)
class StormLimit:
    """So many frames a second; `burst` at once: a tenth of a second's worth, one at least."""

    rate: int
    span: Span

    @property
    def burst(self) -> int:
        return max(1, self.rate // 10)


def resolve_storms(value: Value, ports: tuple[Port, ...], report: Report) -> Mapping[str, Mapping[str, StormLimit]]:
    """Limits by port and sort; a port without any is left out. Reports C426."""
    given = {
        port.name: dict(_limits(storm, report)) for port in ports if (storm := value.get("ports", port.name, "storm"))
    }
    return {port: limits for port, limits in given.items() if limits}


def _limits(storm: Value, report: Report) -> Iterator[tuple[str, StormLimit]]:
    for sort, value in storm.items():
        match = _RATE.fullmatch(value.data) if isinstance(value.data, str) else None
        rate = int(match[1]) if match else value.data if isinstance(value.data, int) else 0
        if 0 < rate <= _MOST:
            yield sort, StormLimit(rate, value.span)
        else:
            notes = (f"1 to {_MOST:,} frames a second",)
            message = f"{show(str(value.data))} is no rate of frames"
            report.error("C426", message, value.span, notes=notes, help="for example `1000/s`")
