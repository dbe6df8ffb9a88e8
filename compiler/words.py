"""The words that diagnostics share: how values are shown, how lists are named, and what someone probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

SHOWN = 40  # characters of a value; the source line below the message has the rest
LISTED = 12  # alternatives
SUGGESTED = 100  # comparing names is slow: a file with more wrong ones than this gets no more suggestions


def show(data: Any) -> str:
    """A value in backticks as the file would write it, or what it is where it is a collection."""
    if isinstance(data, dict | list):
        return kind_of(data)
    if data is None or isinstance(data, bool):
        text = "null" if data is None else str(data).lower()
    elif isinstance(data, str):
        text = data if data.isprintable() else repr(data)[1:-1]
    else:
        text = str(data)
    return f"`{text if len(text) <= SHOWN else text[: SHOWN - 1] + '…'}`"


def kind_of(data: Any) -> str:
    """What sort of value it is, with its article."""
    match data:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list" if data else "an empty list"
    return "a mapping" if data else "an empty mapping"


def listed(names: Iterable[str], quote: str = "") -> str:
    """`a, b, c`, with an end where there are very many."""
    every = [f"{quote}{name}{quote}" for name in names]
    return ", ".join(every if len(every) <= LISTED else [*every[:LISTED], f"and {len(every) - LISTED} more"])


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that was probably meant: a misspelling, another case or an abbreviation (`fw`, `firewall`)."""
    import difflib  # only mistakes need it

    candidates = list(names)
    folded = {candidate.lower().replace("_", "-"): candidate for candidate in candidates}
    wanted = name.lower().replace("_", "-")[:SHOWN]
    if wanted in folded:
        return folded[wanted]
    near = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6)
    if near:
        return folded[near[0]]
    short = [candidate for candidate in folded if len(wanted) > 1 and _abbreviates(wanted, candidate)]
    return folded[short[0]] if len(short) == 1 else None


def _abbreviates(short: str, long: str) -> bool:
    letters = iter(long)
    return short[0] == long[:1] and all(letter in letters for letter in short)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The help text for a wrong name, or an empty one."""
    meant = closest(name, names)
    return f"did you mean `{meant}`?" if meant else ""
