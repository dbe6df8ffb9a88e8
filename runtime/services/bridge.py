"""The run-time side of the bridge: its control plane, what its maps say, and how they get into another layout."""

from __future__ import annotations

from ..migrate import Migration, Table
from .bridge_fdb import migration as fdb_migration
from .bridge_inspect import inspect as inspect
from .bridge_stp import TICK_SECONDS as TICK_SECONDS
from .bridge_stp import describe as describe
from .bridge_stp import on_link as on_link
from .bridge_stp import on_packets as on_packets
from .bridge_stp import reload as reload
from .bridge_stp import start as start
from .bridge_stp import states_migration
from .bridge_stp import stop as stop
from .bridge_stp import tick as tick


def migration(old: Table, new: Table) -> Migration | None:
    """By what the map holds."""
    if old.record.meaning.startswith("bridge states/"):
        return states_migration(old, new)
    return fdb_migration(old, new)
