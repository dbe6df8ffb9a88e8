"""Two results → what has changed, row by row, in the order of the first."""

from __future__ import annotations

from .measure import Row
from .results import Results

Key = tuple[str, str, str, str]


def table(before: Results, after: Results) -> str:
    """Lines of text; `change` is that of the ratio to the bare redirect. Rows of one side only have no change."""
    rows_before, rows_after = _by_key(before), _by_key(after)
    keys = dict.fromkeys([*rows_before, *rows_after])
    lines = [_line(("traffic", "service", "contender", "mode"), "before", "after", "change", "± before", "± after")]
    for key in keys:
        old, new = rows_before.get(key), rows_after.get(key)
        changed = f"{new.ratio_to_redirect / old.ratio_to_redirect - 1:+.1%}" if old and new else "–"
        lines.append(_line(key, _ratio(old), _ratio(new), changed, _spread(old), _spread(new)))
    return "".join(f"{line}\n" for line in lines)


def _by_key(results: Results) -> dict[Key, Row]:
    return {(row.traffic, row.service, row.contender, row.mode): row for row in results.rows}


def _ratio(row: Row | None) -> str:
    return f"{row.ratio_to_redirect:.3f}" if row else "–"


def _spread(row: Row | None) -> str:
    return f"{row.spread:.3f}" if row else "–"


def _line(key: Key, *cells: str) -> str:
    traffic, service, contender, mode = key
    return f"{traffic:<12} {service:<18} {contender:<16} {mode:<8}" + "".join(f" {cell:>9}" for cell in cells)
