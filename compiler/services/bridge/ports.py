"""The port that an entry of a bridge names."""

from __future__ import annotations

from ...model import Port
from ...source import Report, Value


def named_port(value: Value, ports: tuple[Port, ...], what: str, report: Report) -> Port | None:
    """The port of this name; None where the bridge has none. Reports C413: `what` as in "static entry leads to"."""
    found = next((port for port in ports if port.name == value.data), None)
    if found is None:
        message, label = f"{what} unknown port `{value.data}`", "no port of this bridge has this name"
        notes = (f"ports here: {', '.join(sorted(port.name for port in ports))}",)
        report.error("C413", message, value.span, label=label, notes=notes)
    return found
