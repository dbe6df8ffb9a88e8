"""The spanning tree of a bridge: BPDUs and link changes in, states of ports and BPDUs out (protocols/rstp.py).

The data plane reads a port's state from the map `states`; nobody else writes it. While this is away the last states
stay, and BPDUs go through ports that forward; when it starts, every port is closed until the tree is known again.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from ..control import Context, OpenMap, Packet, Port
from ..control_maps import ControlMap
from ..devices import LinkMode, link_mode
from ..migrate import Entries, Migration, Moved, Table
from ..protocols.bpdu import Bpdu
from ..protocols.rstp import Bridge
from ..protocols.rstp_port import BridgeSettings, Effect, Flush, Guard, PortSettings, Role, Send, State
from .bridge_fdb import forget, optional_map

TICK_SECONDS = 1.0

_PORTS = 128  # BRIDGE_PORTS in config.h
_TIME_SIZE = 8
_KEY = bytes(4)
_STATES = tuple(State)  # enum port_state
_PLACES = (*Role, *Guard)  # what a port is in the tree, or what keeps it from that
_MOST_BPDUS = 50  # of one port in a second
_GIGABIT_COST = 20_000

_CLOCK_NS = 10_000_000  # how far the coarse clock of packets may lag
_SIGN_SECONDS = 0.25  # between signs of life, of which one holds for a second at least


class _Tree(Struct):
    """The spanning tree of one bridge. Port numbers are indices + 1.

    `links` has what each port leads to: its peer and device. `up` are the ports whose link is up, `heard` counts the
    BPDUs of each since the last tick, `told` is what the log has heard of each port. `written` is what the map has, but
    for the time, which is `until_ns`. What came up before `begun_ns` is of the past. `changes` counts how often
    stations were forgotten because the tree is another one.
    """

    bridge: Bridge
    config: Mapping[str, Any]
    names: tuple[str, ...]
    states: ControlMap
    fdb: ControlMap
    quotas: ControlMap | None
    begun_ns: int
    written: bytes = b""
    until_ns: int = 0
    links: dict[str, tuple[str, int]] = field(default_factory=dict)
    up: set[str] = field(default_factory=set)
    heard: Counter[str] = field(default_factory=Counter)
    told: dict[str, str] = field(default_factory=dict)
    changes: int = 0


def start(context: Context) -> None:
    """Closes every port and forgets all stations, then lets the protocol open those ports whose link is up.

    A port that was shut by `bpdu-guard` before this went away stays shut.
    """
    _begin(context, _shut_ports(context))
    context.every(_SIGN_SECONDS, lambda: _give_sign(context))


def reload(context: Context) -> None:
    """The same bridge between the same devices goes on with the maps of the new generation; another one starts."""
    tree: _Tree = context.state
    links = {name: _link(port) for name, port in context.ports.items()}
    if (tree.config, tree.names, tree.links) != (context.config, tuple(context.ports), links):
        _begin(context, {name for name in _shut_ports(context) if tree.links.get(name) == links[name]})
        return
    (tree.states, tree.fdb, tree.quotas), tree.written = _maps(context), b""
    _carry_out(context, ())
    for port in context.ports.values():
        on_link(context, port)


def stop(context: Context) -> None:
    """From now on BPDUs go through."""
    tree: _Tree | None = context.state
    if tree:
        _write(tree, until_ns=0)


def _begin(context: Context, shut: Collection[str]) -> None:
    """A new tree, with some of its ports shut unless their link is down."""
    stp, names = context.config, tuple(context.ports)
    settings = BridgeSettings(
        address=bridge_address(context.chain, context.service, context.ports),
        priority=stp["priority"],
        hello_time=stp["hello"],
        max_age=stp["max_age"],
        forward_delay=stp["forward_delay"],
        rapid=stp["rapid"],
    )
    ports = [_port_settings(context.ports[name], stp["ports"][name]) for name in names]
    begun_ns = time.monotonic_ns() - _CLOCK_NS
    tree = _Tree(Bridge.of(settings, ports), context.config, names, *_maps(context), begun_ns)
    tree.links = {name: _link(context.ports[name]) for name in names}
    context.state = tree
    for name in shut:
        if _is_up(context.ports[name]):
            tree.up.add(name)
            tree.bridge.shut(context.ports[name].index + 1)
    _carry_out(context, [Flush(number) for number in tree.bridge.ports])
    for name in names:
        on_link(context, context.ports[name])


def _shut_ports(context: Context) -> set[str]:
    """The ports that `bpdu-guard` has shut, as the map says it, and that it still guards."""
    places = context.map("states")[_KEY][_PORTS:]
    return {
        name
        for name, port in context.ports.items()
        if _PLACES[places[port.index]] is Guard.BPDU and context.config["ports"][name]["bpdu_guard"]
    }


def on_packets(context: Context, packets: Sequence[Packet]) -> None:
    """Frames to the bridge group address; what is no BPDU is not for us.

    A neighbour sends ten in a second at most: of one that sends many more, the rest is passed over.
    """
    tree: _Tree = context.state
    effects: list[Effect] = []
    for packet in packets:
        name = packet.port.name
        tree.heard[name] += 1
        if tree.heard[name] > _MOST_BPDUS or packet.time_ns < tree.begun_ns:
            continue
        bpdu = Bpdu.of_frame(packet.frame)
        if bpdu is not None:
            effects += tree.bridge.receive(packet.port.index + 1, bpdu)
    _carry_out(context, effects)


def tick(context: Context) -> None:
    """A second has passed."""
    tree: _Tree = context.state
    for name, count in tree.heard.items():
        if count > _MOST_BPDUS:
            context.log.warning("too many BPDUs", port=name, in_a_second=count, heard=_MOST_BPDUS)
    tree.heard.clear()
    _carry_out(context, tree.bridge.tick())


def on_link(context: Context, port: Port) -> None:
    """A device came up, went down, or is another one."""
    tree: _Tree = context.state
    up = _is_up(port)
    if tree.links[port.name] != _link(port):
        tree.links[port.name] = _link(port)
        tree.up.discard(port.name)
        _carry_out(context, tree.bridge.disable(port.index + 1))
    if up == (port.name in tree.up):
        return
    if up:
        tree.up.add(port.name)
        mode = link_mode(port.device, port.netns) if port.device else LinkMode()
        cost, point_to_point = _path_cost(context, port, mode), _is_point_to_point(context, port, mode)
        _carry_out(context, tree.bridge.enable(port.index + 1, path_cost=cost, point_to_point=point_to_point))
    else:
        tree.up.remove(port.name)
        _carry_out(context, tree.bridge.disable(port.index + 1))


def _is_up(port: Port) -> bool:
    """What leads to another service or to the host has no link that could be down."""
    return port.up or port.device is None


def describe(config: Mapping[str, Any], ports: Sequence[str], open_map: OpenMap) -> dict[str, str]:
    """`root, forwarding`, as the data plane has it."""
    content = open_map("states")[_KEY]
    return {
        name: f"{_PLACES[content[_PORTS + index]]}, {_STATES[content[index]]}"
        for index, name in enumerate(ports)
        if name in config["ports"]
    }


def states_migration(old: Table, new: Table) -> Migration:
    """Other ports, or others in their places: states go by name, and a port that is new begins closed."""
    before = {name: index for index, name in enumerate(old.ports)}

    def content(entries: Entries) -> Moved:
        was, states = entries[_KEY], bytearray(2 * _PORTS)
        for index, name in enumerate(new.ports):
            if name in before:
                states[index], states[_PORTS + index] = was[before[name]], was[_PORTS + before[name]]
        return Moved({_KEY: bytes(states) + was[2 * _PORTS :].ljust(_TIME_SIZE, b"\0")})

    return Migration(content)


# --- what the protocol asks for ---------------------------------------------------------------------------------------


def _carry_out(context: Context, effects: Iterable[Effect]) -> None:
    """States first: a BPDU may say that a port is closed, and it has to be by then."""
    tree: _Tree = context.state
    if _content(tree.bridge) != tree.written:
        _write(tree, time.monotonic_ns() + _served_ns(tree.config))
        _tell(context, tree)
    effects = tuple(effects)
    flushed = {effect.port for effect in effects if isinstance(effect, Flush)}
    if flushed:
        forget(tree.fdb, tree.quotas, ports={number - 1 for number in flushed})
        tree.changes += 1
    for effect in effects:
        if isinstance(effect, Send):
            port = context.ports[tree.names[effect.port - 1]]
            source = port.mac if any(port.mac) else tree.bridge.settings.address.to_bytes(6)
            context.send(port, effect.bpdu.frame(source))


def _served_ns(config: Mapping[str, Any]) -> int:
    """How long a sign of life holds.

    Neighbours believe for two more hello times at least what they have heard last, counted in whole seconds (17.21.23).
    Only then do they look for another way: by then they have to hear each other.
    """
    return int(2 * config["hello"] - 1) * 1_000_000_000


def _give_sign(context: Context) -> None:
    """This is alive."""
    tree: _Tree = context.state
    now = time.monotonic_ns()
    if tree.until_ns < now:
        late = f"{(now - tree.until_ns) / 1e9:.1f}s"
        context.log.warning("spanning tree was late: BPDUs have been passed on meanwhile", late=late)
    _write(tree, now + _served_ns(tree.config))


def _write(tree: _Tree, until_ns: int) -> None:
    """Tells programs the states, and until when they are looked after."""
    tree.written, tree.until_ns = _content(tree.bridge), until_ns
    tree.states[_KEY] = tree.written + until_ns.to_bytes(_TIME_SIZE, "little")


def _maps(context: Context) -> tuple[ControlMap, ControlMap, ControlMap | None]:
    """States, filtering database, and where ports have a limit the numbers of their stations."""
    return context.map("states"), context.map("fdb"), optional_map(context.map, "quotas")


def _content(bridge: Bridge) -> bytes:
    """struct port_states, without the time."""
    states, roles = bytearray(_PORTS), bytearray(_PORTS)
    for port in bridge.ports.values():
        states[port.number - 1] = _STATES.index(port.state)
        roles[port.number - 1] = _PLACES.index(port.guard or port.role)
    return bytes(states + roles)


def _tell(context: Context, tree: _Tree) -> None:
    """Logs what has changed."""
    for port in tree.bridge.ports.values():
        name = tree.names[port.number - 1]
        now = f"{port.role}, {port.state}" + (f", {port.guard}" if port.guard is not Guard.NONE else "")
        if tree.told.get(name, "disabled, discarding") != now:
            log = context.log.info if port.guard is Guard.NONE else context.log.warning
            log("spanning tree", port=name, is_now=now, root=f"{tree.bridge.root_priority.root_id:016x}")
            tree.told[name] = now


# --- settings ---------------------------------------------------------------------------------------------------------


def _link(port: Port) -> tuple[str, int]:
    """What a port leads to."""
    return port.peer, port.ifindex


def _port_settings(port: Port, given: Mapping[str, Any]) -> PortSettings:
    """As the file says; but there is no bridge in this machine's own stack, and no way to send it a BPDU."""
    stack = port.peer == "host"
    return PortSettings(
        number=port.index + 1,
        priority=given["priority"],
        path_cost=given["cost"] or _GIGABIT_COST,
        admin_edge=stack or given["edge"] is True,
        auto_edge=given["edge"] is None,
        bpdu_guard=given["bpdu_guard"],
        root_guard=given["root_guard"],
        bpdu_filter=stack or given["bpdu_filter"],
    )


def _path_cost(context: Context, port: Port, mode: LinkMode) -> int:
    """As the file says, else by the speed of the device (802.1D-2004 table 17-3), else that of 1 Gb/s."""
    given: int | None = context.config["ports"][port.name]["cost"]
    if given:
        return given
    return max(1, 20_000_000 // mode.speed) if mode.speed else _GIGABIT_COST


def _is_point_to_point(context: Context, port: Port, mode: LinkMode) -> bool:
    """As the file says, else by the duplex of the device (802.1D-2004 6.4.3). What does not say has two ends."""
    given: bool | None = context.config["ports"][port.name]["point_to_point"]
    return not mode.half_duplex if given is None else given


def bridge_address(chain: str, service: str, ports: Mapping[str, Port]) -> int:
    """The lowest of the ports' own addresses (7.12.5), or where none has one a local one that is always the same."""
    addresses = [port.mac for port in ports.values() if any(port.mac)]
    if addresses:
        return int.from_bytes(min(addresses))
    digest = hashlib.sha256(f"{chain}.{service}".encode()).digest()
    return int.from_bytes(bytes([digest[0] & 0xFC | 0x02]) + digest[1:6])
