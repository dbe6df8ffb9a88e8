"""What a bridge's snooping makes of ports, reloads and many messages, and how it writes what is known.

Maps are dictionaries that have as much room as the real ones; tests/kernel/test_multicast.py has those, and real hosts.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, cast

import pytest
from scapy.layers.igmp import IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from runtime.control import Context, OpenMap, Packet, Port
from runtime.log import Log
from runtime.protocols.membership import Join, Query
from runtime.protocols.snooping import Network, Snooping, Table
from runtime.services import bridge_multicast
from runtime.services.bridge_mdb import packed
from schemas.manifest import Hook

A, B, UP = (Port(name, index, f"interface {name}", device=name, ifindex=index + 1, mac=bytes([2, 0, 0, 0, 0, index]),
                 up=True) for index, name in enumerate(("a", "b", "up")))  # fmt: skip
IPV4 = Network(0, 4)
SAID: dict[str, Any] = {"router": None, "fast_leave": False}


class Map(dict[bytes, bytes]):
    """A hash of the kernel's: it refuses what it has no room for."""

    room = 16
    writes = 0

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.writes += 1
        super().__setitem__(key, value)
        assert len(self) <= self.room, "E2BIG"

    def set_many(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in entries:
            self[key] = value

    def delete_many(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self.pop(key, None)


@dataclass(slots=True)
class Desk:
    """A context without programs."""

    config: Mapping[str, Any]
    ports: Mapping[str, Port]
    chain: str = "edge"
    service: str = "br0"
    state: Any = None
    text: io.StringIO = field(default_factory=io.StringIO)
    maps: dict[str, Map] = field(default_factory=lambda: {"mdb": Map(), "mdb_kept_until": Map()})
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    log: Log = field(init=False)

    def __post_init__(self) -> None:
        self.log = Log(to=self.text)

    def map(self, name: str) -> Map:
        return self.maps[name]

    def send(self, port: Port, frame: bytes) -> bool:
        self.sent.append((port.name, frame))
        return True

    @property
    def context(self) -> Context:
        return cast("Context", self)

    @property
    def snooping(self) -> Snooping:
        found: Snooping = self.state.snooping
        return found

    def hear(self, *frames: bytes, port: Port = A, vlan: int = 0) -> None:
        packets = [Packet(port, "multicast", frame, vlan, 0, len(frame), Hook.TC) for frame in frames]
        bridge_multicast.on_packets(self.context, packets)


def desk(*ports: Port, said: Mapping[str, Mapping[str, Any]] | None = None, **more: Any) -> Desk:
    """A bridge whose control plane has started."""
    config = {
        "querier": False,
        "address": "0.0.0.0",
        "query_interval": 125.0,
        "max_response": 10.0,
        "groups": 8,
        "flood_unregistered": False,
        "static": [],
        "stp": False,
        "ports": {port.name: {**SAID, **(said or {}).get(port.name, {})} for port in ports},
    }
    found = Desk(config | more, {port.name: port for port in ports})
    bridge_multicast.start(found.context)
    return found


def report(*groups: str) -> bytes:
    """IGMPv3: somebody listens to all of these."""
    records = [IGMPv3_MR_Group(rtype=4, maddr=group) for group in groups]
    return bytes(
        Ether(src="02:00:00:00:00:aa") / IP(src="10.0.0.1", dst="224.0.0.22", ttl=1) / IGMPv3_MR(records=records)
    )


def in_force(*networks: Network, ports: Sequence[Port], groups: int = 8) -> Desk:
    """Everybody has been asked and has answered, in every network."""
    found = desk(*ports, groups=groups)
    ago = found.snooping.counts_from = time.monotonic() - 60
    for network in networks:
        found.snooping.receive(network, UP.index, b"", [Query(IPv4Address("10.0.0.9"), None, 1.0)], ago)
    for effect in found.snooping.tick(ago + 30):
        assert effect
    return found


def test_every_group_of_a_message_counts() -> None:
    """Else one host's long reports would keep the daemon from everything else."""
    found = desk(A, B, UP, groups=5000)
    long = [report(*(f"239.1.{number}.{last}" for last in range(182))) for number in range(20)]
    found.hear(*long)
    assert found.snooping.learned < 1000 + 182
    assert found.snooping.learned >= 1000 - 182
    found.hear(report("239.2.2.2"), port=B)
    assert IPv4Address("239.2.2.2") in found.snooping.networks[IPV4].members, "each port has its own share"
    bridge_multicast.tick(found.context)
    assert "too many IGMP or MLD messages" in found.text.getvalue()
    found.hear(report("239.3.3.3"))
    assert IPv4Address("239.3.3.3") in found.snooping.networks[IPV4].members, "a second has passed"


def test_one_group_more_or_less_costs_as_much_as_that_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: else every message of a host could cost as much as all groups together."""
    found = in_force(IPV4, ports=(A, B, UP))
    bridge_multicast.tick(found.context)
    whole, mdb = found.snooping.table, found.map("mdb")
    monkeypatch.setattr(Snooping, "table", None)
    for number, port in [(1, A), (2, A), (1, B), (3, B)]:
        before = mdb.writes
        found.hear(report(f"239.1.1.{number}"), port=port)
        assert mdb.writes == before + 1
        assert mdb == dict(packed(IPV4, cast("Table", whole(IPV4, time.monotonic()))))
    bridge_multicast.on_link(found.context, Port("b", 1, "interface b", device="b", ifindex=2))
    assert mdb == dict(packed(IPV4, cast("Table", whole(IPV4, time.monotonic()))))
    assert len(mdb) == 3


def test_what_nobody_keeps_is_not_told() -> None:
    found = in_force(IPV4, ports=(A, B, UP))
    found.snooping.changed.add(IPV4)
    bridge_multicast.tick(found.context)

    def described() -> Mapping[str, str]:
        return bridge_multicast.describe(found.config, tuple(found.ports), cast("OpenMap", found.map))

    assert described() == {"up": "multicast router"}
    bridge_multicast.stop(found.context)
    assert described() == {}


VLAN = Port("v", 1, "vlan10.port", device="eth1", ifindex=9, mac=bytes([2, 0, 0, 0, 0, 9]))
SERVICE, HOST = Port("v", 1, "guard.inside"), Port("v", 1, "host")


@pytest.mark.parametrize(("port", "is_router"), [(VLAN, False), (SERVICE, True), (HOST, True), (B, False)])
def test_what_has_no_device_counts_as_a_router(port: Port, is_router: bool) -> None:
    """A port that is an interface with `vlan` has one, though it leads to the service that has the VLANs."""
    assert desk(A, port).snooping.settings.routers == (frozenset({port.index}) if is_router else frozenset())


def test_the_link_of_an_interface_with_a_vlan_is_that_of_its_device() -> None:
    up = Port("v", 1, "vlan10.port", device="eth1", ifindex=9, up=True)
    found = desk(A, up)
    found.hear(report("239.1.1.1"), port=up)
    bridge_multicast.on_link(found.context, VLAN)
    assert found.snooping.networks[IPV4].members == {}


def test_a_port_that_leads_elsewhere_after_a_reload_is_a_router_or_none_by_what_it_is_now() -> None:
    found = desk(A, B)
    found.ports = {"a": A, "b": Port("b", 1, "guard.inside")}
    bridge_multicast.reload(found.context)
    assert found.snooping.settings.routers == {1}
    found.ports = {"a": A, "b": B}
    bridge_multicast.reload(found.context)
    assert found.snooping.settings.routers == frozenset()


def test_a_reload_that_changes_nothing_keeps_what_is_known() -> None:
    found = desk(A, B)
    found.hear(report("239.1.1.1"))
    before = found.snooping
    bridge_multicast.reload(found.context)
    assert found.snooping is before
    assert before.learned == 1


def test_a_full_map_takes_what_comes_where_something_has_gone() -> None:
    """Groups that end in one VLAN make room for those of another, in whichever order the two are looked at."""
    networks = [Network(vlan, 4) for vlan in range(1, 9)]
    for full, other in [(networks[0], networks[-1]), (networks[-1], networks[0])]:
        found = in_force(*networks, ports=(A, UP))
        assert found.map("mdb").room == 8 + len(networks)
        now, groups = time.monotonic(), [IPv4Address(f"239.1.1.{number}") for number in range(8)]
        found.snooping.receive(full, A.index, b"", [Join(group) for group in groups], now)
        bridge_multicast.tick(found.context)
        assert len(found.map("mdb")) == found.map("mdb").room
        found.snooping.port_down(A.index)
        found.snooping.receive(other, UP.index, b"", [Join(group) for group in groups], now)
        bridge_multicast.tick(found.context)
        assert len(found.map("mdb")) == found.map("mdb").room
