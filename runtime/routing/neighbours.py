"""A router's neighbours: who is asked for, who is known, whose packets wait (RFC 826, RFC 4861 7).

Programs forward to the neighbours that are in their maps. Here is decided who gets in and who stays: one that is used
is asked anew before it is forgotten, and packets to it go on meanwhile. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple, Protocol

from msgspec import Struct, field

from schemas.services.router import Address

from ..protocols import arp, icmp6
from ..protocols.ethernet import BROADCAST, ETH_P_IPV6, Frame
from .ports import Outlet, Ports, RouterPort

RETRANSMIT = 1.0
"""Seconds between two solicitations (RFC 4861 10, RETRANS_TIMER)."""
TRIES = 3
"""Solicitations until a neighbour counts as gone (MAX_MULTICAST_SOLICIT, MAX_UNICAST_SOLICIT)."""
REACHABLE = 30.0
"""Seconds that a confirmed neighbour is believed to be there (REACHABLE_TIME); a random half more or less."""
FORGOTTEN = 600.0
"""Seconds after which a neighbour that nobody has used is forgotten."""
REFUSED = 3.0
"""Seconds for which a neighbour that did not answer is not asked again."""
HELD = 32
"""Packets that wait for one neighbour; the oldest goes when one more comes."""
WAITING = 1024
"""Neighbours that are asked for at once; the one asked for first is given up when there is one more."""
WAITING_BYTES = 4 << 20
"""Bytes of all packets that wait; likewise. As many as may wait for one neighbour always have room."""
CROWDED_OUT = 1024
"""Neighbours that are looked at when the programs' map is full: those that nobody has used since make room."""


class Key(NamedTuple):
    """A neighbour: the index of the port that it is behind, and its address."""

    port: int
    address: Address


class State(Enum):
    """RFC 4861 7.3.2. A neighbour that is known is in the programs' map while REACHABLE, in PROBE or PERMANENT."""

    INCOMPLETE = "incomplete"
    REACHABLE = "reachable"
    PROBE = "probe"
    FAILED = "failed"
    PERMANENT = "permanent"


class Entry(NamedTuple):
    """A neighbour in the programs' map: `used` is a mark that changes when a program has used it."""

    mac: bytes
    used: int


class Known(Protocol):
    """The neighbours that programs forward to."""

    def entries(self) -> Mapping[Key, Entry]:
        """All of them."""

    def get(self, key: Key) -> Entry | None: ...

    def add(self, key: Key, mac: bytes) -> bool:
        """Makes it known, or known by another MAC, its mark then 0; False if there is no room."""

    def take(self, key: Key) -> Entry | None:
        """Takes it out, with the mark that it had at that very moment."""


class Held(NamedTuple):
    """A packet that waits: the port that it came in by, and the frame as it came."""

    port: int
    frame: bytes


class Neighbour(Struct):
    """What is known of one; `due` is when something must be done next."""

    state: State
    due: float
    mac: bytes = b""
    used: int = 0
    idle_since: float = 0.0
    tries: int = 0
    held: deque[Held] = field(default_factory=lambda: deque(maxlen=HELD))


class Counts(Struct):
    """What has happened since the control plane started."""

    overflowed: int = 0  # held packets that gave way to newer ones, or had no room
    no_room: int = 0  # neighbours that the programs' map had no room for


class Neighbours:
    """All neighbours of a router. `gone` is told of each packet whose next hop does not answer."""

    def __init__(self, ports: Ports, known: Known, outlet: Outlet, gone: Callable[[Held], None], now: float) -> None:
        self._ports, self._known, self._outlet, self._gone = ports, known, outlet, gone
        self._table: dict[Key, Neighbour] = {}
        self._asked: OrderedDict[Key, None] = OrderedDict()  # those that are INCOMPLETE, longest first
        self._due = float("inf")  # nothing is to be done before
        self._held_bytes = 0
        self.counts = Counts()
        for key, entry in known.entries().items():
            if key.port < len(ports.ports):
                self._put(key, self._reachable(entry.mac, now, entry.used))
            else:
                known.take(key)

    def __getitem__(self, key: Key) -> Neighbour:
        return self._table[key]

    def __len__(self) -> int:
        return len(self._table)

    def resolve(self, key: Key, held: Held | None, now: float) -> None:
        """A packet whose next hop the programs do not know; None for one that cannot wait, as its end is missing."""
        neighbour = self._table.get(key)
        if neighbour is None:
            neighbour = self._ask_for(key, now)
        if held is None:
            self.counts.overflowed += 1
            return
        match neighbour.state:
            case State.INCOMPLETE:
                self._hold(key, neighbour, held)
            case State.FAILED:
                self._gone(held)
            case State.REACHABLE | State.PROBE | State.PERMANENT:  # it came up before the neighbour was known
                self._pass_on(key, neighbour.mac, [held], now)

    def learn(self, key: Key, mac: bytes, now: float, *, override: bool = True) -> None:
        """`mac` has been told for a neighbour. Only one that is known or asked for is listened to.

        Without `override`, what is known by another MAC already stays as it is (RFC 4861 7.2.5).
        """
        neighbour = self._table.get(key)
        if neighbour is None or neighbour.state in (State.FAILED, State.PERMANENT):
            return
        if neighbour.mac and neighbour.mac != mac and not override:
            return
        if neighbour.mac == mac:
            self._put(key, self._reachable(mac, now, neighbour.used))
        elif self._pass_on(key, mac, self._released(neighbour), now):
            self._put(key, self._reachable(mac, now, 0))
        else:
            self._remove(key)

    def offer(self, key: Key, mac: bytes, now: float) -> None:
        """Somebody else knows this neighbour: worth something as long as nothing better is known."""
        neighbour = self._table.get(key) or Neighbour(State.INCOMPLETE, now)
        if neighbour.state is State.INCOMPLETE and self._pass_on(key, mac, self._released(neighbour), now):
            self._put(key, self._reachable(mac, now, 0))

    def fix(self, key: Key, mac: bytes, now: float) -> None:
        """It has this MAC, whatever else is heard, until it is `unfix`ed; it is neither asked nor forgotten."""
        neighbour = self._table.get(key)
        if neighbour is not None and (neighbour.state, neighbour.mac) == (State.PERMANENT, mac):
            return
        if self._pass_on(key, mac, self._released(neighbour) if neighbour else (), now):
            self._put(key, Neighbour(State.PERMANENT, float("inf"), mac))

    def unfix(self, key: Key) -> None:
        """It is fixed no more, if it was: the next packet asks for it."""
        neighbour = self._table.get(key)
        if neighbour is not None and neighbour.state is State.PERMANENT:
            self._known.take(key)
            self._remove(key)

    def mac(self, key: Key) -> bytes | None:
        """Its MAC, where that is known."""
        neighbour = self._table.get(key)
        return neighbour.mac or None if neighbour else None

    def waiting(self) -> list[Held]:
        """All packets that wait: first those to whoever was asked for first."""
        return [held for key in self._asked for held in self._table[key].held]

    def tick(self, now: float) -> None:
        """Does all that is due."""
        if now < self._due:
            return
        due = [key for key, neighbour in self._table.items() if neighbour.due <= now]
        for key in due:
            neighbour = self._table[key]
            match neighbour.state:
                case State.INCOMPLETE | State.PROBE:
                    self._again(key, neighbour, now)
                case State.FAILED:
                    self._remove(key)
                case State.REACHABLE:
                    self._check(key, neighbour, self._known.get(key), now)
        self._due = min((neighbour.due for neighbour in self._table.values()), default=float("inf"))

    def confirm(self, key: Key, now: float) -> None:
        """It has answered without saying its MAC, so that is still the one that it was asked by (RFC 4861 7.2.5)."""
        neighbour = self._table.get(key)
        if neighbour is not None and neighbour.mac and neighbour.state is not State.PERMANENT:
            self._put(key, self._reachable(neighbour.mac, now, neighbour.used))

    def _hold(self, key: Key, neighbour: Neighbour, held: Held) -> None:
        if len(neighbour.held) == HELD:
            self.counts.overflowed += 1
            self._held_bytes -= len(neighbour.held.popleft().frame)
        self._held_bytes += len(held.frame)
        neighbour.held.append(held)
        while self._held_bytes > WAITING_BYTES:
            self._give_up(next(other for other in self._asked if other != key))

    def _released(self, neighbour: Neighbour) -> list[Held]:
        """The packets that have waited for it, which do not any more."""
        held = list(neighbour.held)
        neighbour.held.clear()
        self._held_bytes -= sum(len(packet.frame) for packet in held)
        return held

    def _give_up(self, key: Key) -> None:
        """Makes room for others. It may be there all the same: nobody is told otherwise, the next packet asks anew."""
        self.counts.overflowed += len(self._released(self._table[key]))
        self._remove(key)

    def _put(self, key: Key, neighbour: Neighbour) -> None:
        self._table[key] = neighbour
        self._due = min(self._due, neighbour.due)
        if neighbour.state is State.INCOMPLETE:
            self._asked[key] = None
        else:
            self._asked.pop(key, None)

    def _remove(self, key: Key) -> None:
        del self._table[key]
        self._asked.pop(key, None)

    def _pass_on(self, key: Key, mac: bytes, held: Iterable[Held], now: float) -> bool:
        """Makes a neighbour known and lets its packets arrive again, which then find it; without room they are lost."""
        if not self._known.add(key, mac):
            self._crowd_out(key.address.version, now)
            if not self._known.add(key, mac):
                self.counts.no_room += 1
                return False
        for packet in held:
            self._outlet.inject(packet.port, packet.frame)
        return True

    def _reachable(self, mac: bytes, now: float, used: int) -> Neighbour:
        due = now + REACHABLE * random.uniform(0.5, 1.5)  # noqa: S311  # only so that not all are due at once
        return Neighbour(State.REACHABLE, due, mac, used, now)

    def _ask_for(self, key: Key, now: float) -> Neighbour:
        if len(self._asked) >= WAITING:
            self._give_up(next(iter(self._asked)))
        neighbour = Neighbour(State.INCOMPLETE, now + RETRANSMIT, tries=1)
        self._put(key, neighbour)
        self._solicit(key, None)
        return neighbour

    def _again(self, key: Key, neighbour: Neighbour, now: float) -> None:
        if neighbour.tries >= TRIES:
            self._fail(key, neighbour, now)
            return
        neighbour.tries += 1
        neighbour.due = now + RETRANSMIT
        self._solicit(key, neighbour.mac or None)

    def _fail(self, key: Key, neighbour: Neighbour, now: float) -> None:
        """It does not answer: programs forget it, and who waits for it is told."""
        if neighbour.state is State.PROBE:
            self._known.take(key)
            self._remove(key)  # the next packet asks everybody
            return
        self._put(key, Neighbour(State.FAILED, now + REFUSED))
        for packet in self._released(neighbour):
            self._gone(packet)

    def _check(self, key: Key, neighbour: Neighbour, entry: Entry | None, now: float) -> None:
        """A neighbour that has been used since it was last looked at is asked whether it is still there."""
        if entry is None:
            self._remove(key)
        elif entry.used != neighbour.used:
            neighbour.used, neighbour.idle_since = entry.used, now
            neighbour.state, neighbour.tries, neighbour.due = State.PROBE, 1, now + RETRANSMIT
            self._solicit(key, neighbour.mac)
        elif now - neighbour.idle_since >= FORGOTTEN:
            self._forget(key, neighbour, now)
        else:
            neighbour.due = now + REACHABLE

    def _forget(self, key: Key, neighbour: Neighbour, now: float) -> None:
        """A program may have used it since it was read: what is taken out says so, and then it is put back."""
        entry = self._known.take(key)
        if entry is not None and entry.used != neighbour.used:
            self._known.add(key, entry.mac)
            neighbour.used, neighbour.idle_since, neighbour.due = entry.used, now, now + REACHABLE
        else:
            self._remove(key)

    def _crowd_out(self, version: int, now: float) -> None:
        """Forgets neighbours that have not been used for longest, as far as that is known."""
        settled = [
            (neighbour.idle_since, key)
            for key, neighbour in self._table.items()
            if neighbour.state is State.REACHABLE and key.address.version == version
        ]
        for _, key in sorted(settled)[:CROWDED_OUT]:
            self._forget(key, self._table[key], now)

    def _solicit(self, key: Key, mac: bytes | None) -> None:
        """Asks everybody on the link, or the one at `mac`."""
        port = self._ports[key.port]
        source = port.address_for(key.address) or self._any_address(key.address)
        if source is None:
            return
        self._outlet.send(port.index, solicitation(port, source, key.address, mac))

    def _any_address(self, like: Address) -> Address | None:
        """Of any port: a destination may be on the link of a port that has no address of its version."""
        found = (port.address_for(like) for port in self._ports.ports)
        return next((address for address in found if address is not None), None)


def solicitation(port: RouterPort, source: Address, target: Address, mac: bytes | None) -> bytes:
    """The frame that asks for `target`: everybody, or the one at `mac`."""
    if isinstance(target, IPv4Address):
        assert isinstance(source, IPv4Address)
        return arp.request(port.mac, source, target, mac or BROADCAST)
    assert isinstance(source, IPv6Address)
    packet = icmp6.solicitation(source, target, port.mac, target if mac else None)
    return Frame(mac or icmp6.group_mac(packet.destination), port.mac, ETH_P_IPV6, packet.packed()).packed()
