"""The run-time side of the bridge: a control plane for each of its parts, and how its maps get into another layout."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..control import Context, OpenMap, Packet, Port, Timer
from ..migrate import Migration, Table
from . import bridge_multicast, bridge_stp
from .bridge_fdb import migration as fdb_migration
from .bridge_stp import states_migration

TICK_SECONDS = 1.0

_PARTS = {"stp": bridge_stp, "multicast": bridge_multicast}
"""By their key in the configuration; a bridge may have both."""

_REASONS = {"stp": "bpdu", "multicast": "multicast"}
"""Why packets come up that are for a part."""


@dataclass(slots=True)
class _Part:
    """A part's view of the bridge's context: what the file says of the part alone, and a state of its own."""

    whole: Context
    name: str
    state: Any = None
    timers: list[Timer] = field(default_factory=list)

    @property
    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.whole.config[self.name]
        return found

    def every(self, seconds: float, call: Callable[[], object]) -> Timer:
        """As the context's, but it ends with the part."""
        self.timers.append(self.whole.every(seconds, call))
        return self.timers[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def start(context: Context) -> None:
    """Starts the parts that the chain file asks for."""
    context.state = {name: _Part(context, name) for name in _PARTS if name in context.config}
    for name, part in _parts(context):
        _PARTS[name].start(part)


def reload(context: Context) -> None:
    """Parts that are still there go on, those that are new start, and those that are not asked for any more end."""
    before: dict[str, _Part] = context.state
    for timer in [timer for name, part in before.items() if name not in context.config for timer in part.timers]:
        timer.cancel()
    context.state = {name: before.get(name) or _Part(context, name) for name in _PARTS if name in context.config}
    for name, part in _parts(context):
        (_PARTS[name].reload if name in before else _PARTS[name].start)(part)


def on_packets(context: Context, packets: Sequence[Packet]) -> None:
    """To each part what is for it."""
    with _tree_watched(context):
        for name, part in _parts(context):
            found = [packet for packet in packets if packet.reason == _REASONS[name]]
            if found:
                _PARTS[name].on_packets(part, found)


def tick(context: Context) -> None:
    """A second has passed."""
    with _tree_watched(context):
        for name, part in _parts(context):
            _PARTS[name].tick(part)


def on_link(context: Context, port: Port) -> None:
    """A device came up, went down, or is another one."""
    with _tree_watched(context):
        for name, part in _parts(context):
            _PARTS[name].on_link(part, port)


def stop(context: Context) -> None:
    """The chain is gone, or this starts anew."""
    for name, part in _parts(context):
        if part.state is not None:
            _PARTS[name].stop(part)


def describe(config: Mapping[str, Any], ports: Sequence[str], open_map: OpenMap) -> dict[str, str]:
    """What each part says of a port."""
    said: dict[str, list[str]] = {}
    for name in _PARTS:
        for port, words in _PARTS[name].describe(config[name], ports, open_map).items() if name in config else ():
            said.setdefault(port, []).append(words)
    return {port: ", ".join(words) for port, words in said.items()}


@contextlib.contextmanager
def _tree_watched(context: Context) -> Iterator[None]:
    """Where the spanning tree changes meanwhile, snooping is told so."""
    tree, snooping = context.state.get("stp"), context.state.get("multicast")
    if not tree or not snooping:
        yield
        return
    changes, states = tree.state.changes, tree.state.written
    yield
    if (tree.state.changes, tree.state.written) != (changes, states):
        bridge_multicast.tree_changed(cast("Context", snooping), moved=tree.state.changes != changes)


def _parts(context: Context) -> Iterator[tuple[str, Context]]:
    parts: dict[str, _Part] = context.state or {}
    for name, part in parts.items():
        yield name, cast("Context", part)


def migration(old: Table, new: Table) -> Migration | None:
    """By what the map holds."""
    if old.record.meaning.startswith("bridge states/"):
        return states_migration(old, new)
    return fdb_migration(old, new)
