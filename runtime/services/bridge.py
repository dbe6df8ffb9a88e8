"""The run-time side of the bridge."""

from __future__ import annotations

from .bridge_fdb import migration as migration
