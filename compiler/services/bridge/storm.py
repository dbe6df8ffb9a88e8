"""What a chain file says of storms on a bridge in, how many frames of each sort a port may flood out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from schemas.diagnostic import Span

from ...model import Port
from ...source import Report, Value
from .rates import parse_rate

SORTS = ("broadcast", "multicast", "unknown")  # enum storm_sort


class StormLimit(Struct, frozen=True):
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
        rate = parse_rate(value, "frames", report)
        if rate is not None:
            yield sort, StormLimit(rate, value.span)
