"""Names of a chain file in, C identifiers out."""

from __future__ import annotations


def c_name(name: str) -> str:
    """A chain's name as a C identifier; names have neither underscore nor capital, so two never become one."""
    return name.replace("--", "_D").replace("-", "_").replace(".", "__")
