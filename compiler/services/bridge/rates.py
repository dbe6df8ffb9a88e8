"""`1000/s` in, how many a second out."""

from __future__ import annotations

import re

from ...source import Report, Value
from ...words import show

_MOST = 100_000_000
_RATE = re.compile(r"([0-9]{1,9})\s*/\s*s")


def parse_rate(value: Value, what: str, report: Report) -> int | None:
    """So many of `what` a second; a number alone is one as well. Reports C426."""
    match = _RATE.fullmatch(value.data) if isinstance(value.data, str) else None
    rate = int(match[1]) if match else value.data if isinstance(value.data, int) else 0
    if 0 < rate <= _MOST:
        return rate
    message = f"{show(str(value.data))} is no rate of {what}"
    report.error("C426", message, value.span, notes=(f"1 to {_MOST:,} {what} a second",), help="for example `1000/s`")
    return None
