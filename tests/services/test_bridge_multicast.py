"""Snooping on the bridge: every sort of frame, and what the programs make of what is known.

The test writes that into the maps, as the control plane does. Test runs show verdicts and what goes up; on the wire it
is seen, in every mode, which ports a frame leaves by. tests/kernel/test_multicast.py has real hosts.
"""

from __future__ import annotations

import itertools
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from compiler.build import Compiled
from runtime import sys as kernel
from runtime.bpffs import bpffs_root
from runtime.pin import chain_pins
from schemas.manifest import Hook, Mode
from tests.rig.network import network, running
from tests.services.harness import Bench, Row, Scene
from tests.services.model_bridge import BridgeModel
from tests.services.model_multicast import MulticastModel, Snooped
from tests.services.model_vlans import VlanBridgeModel, access, trunk
from tests.services.multicast_frames import MESSAGES, OTHERS, V4, V6, frame
from tests.services.test_bridge_vlans import check

every_mode = pytest.mark.parametrize("mode", [mode.value for mode in Mode])

PLAIN = ("a", "b", "c", "up")
FOR_EVER_NS = 1 << 62
IPV4_BYTES = 22
"""An EtherType and an IPv4 header."""

_KEY = struct.Struct("<HH16s")  # struct mdb_key
_ETHERTYPE = {4: 0x0800, 6: 0x86DD}


# --- what is known ----------------------------------------------------------------------------------------------------


def bits(ports: Sequence[str], chosen: frozenset[str] | None) -> bytes:
    """struct port_set."""
    known = sum(1 << ports.index(port) for port in chosen or ())
    return (known if chosen is not None else (1 << 128) - 1).to_bytes(16, "little")


def entries(model: MulticastModel, ports: Sequence[str]) -> dict[bytes, bytes]:
    """The map `mdb` for what a model knows."""
    found = {}
    for (vlan, group), members in model.groups.items():
        found[_KEY.pack(vlan, _ETHERTYPE[group.version], group.packed)] = bits(ports, members) + bytes(16)
    for (vlan, version), snooped in model.snooped.items():
        value = bits(ports, snooped.unregistered) + bits(ports, snooped.routers)
        found[_KEY.pack(vlan, _ETHERTYPE[version], b"")] = value
    return found


def ports_of(*names: str) -> frozenset[str]:
    return frozenset(names)


def plain_model(ports: Sequence[str] = PLAIN) -> MulticastModel:
    """`b` listens to a group of each version of IP, `c` to the second only; the router is at `up`."""
    snooped = Snooped(ports_of("up"), ports_of("up"))
    return MulticastModel(
        BridgeModel(tuple(ports)),
        {(0, ip_address(V4)): ports_of("b", "up"), (0, ip_address(V6)): ports_of("b", "c", "up")},
        {(0, 4): snooped, (0, 6): snooped},
    )


# --- verdicts, and what goes up ---------------------------------------------------------------------------------------

SOURCE = bytes.fromhex("02aa0000000a")


def rows(port: str, model: MulticastModel) -> Iterator[Row]:
    """Every frame of the tables at a port; messages are copied to the control plane, and nothing else is."""
    for name, content in (MESSAGES | OTHERS).items():
        sent = frame(SOURCE, content)
        if len(content) < IPV4_BYTES:
            continue  # the kernel refuses a test run at TC
        copies = ("multicast",) if name in MESSAGES else ()
        yield Row(f"{name} at {port}", port, sent, model.receive(port, sent), copies=copies)


def scene(name: str, model: MulticastModel, port: str, kept_until_ns: int = FOR_EVER_NS) -> Scene:
    kept = {bytes(4): kept_until_ns.to_bytes(8, "little")}
    return Scene(
        name,
        {"kind": "bridge", "multicast": {}, "ports": {port: {} for port in PLAIN}},
        PLAIN,
        lambda: model,
        list(rows(port, model)),
        {"tested__mdb": entries(model, PLAIN), "tested__mdb_kept_until": kept},
    )


NOBODY = MulticastModel(
    BridgeModel(PLAIN), {}, {(0, 4): Snooped(ports_of(), ports_of()), (0, 6): Snooped(None, ports_of())}
)
"""IPv4: nobody wants anything, and there is no router. IPv6: what nobody has asked for is flooded."""

SCENES = (
    scene("multicast", plain_model(), "a"),
    scene("multicast-from-a-member", plain_model(), "b"),
    scene("multicast-from-the-router", plain_model(), "up"),
    scene("multicast-for-nobody", NOBODY, "a"),
    scene("multicast-not-kept", MulticastModel(BridgeModel(PLAIN), plain_model().groups, kept=False), "a", 1),
)


def test_some_rows_are_dropped_and_most_are_not() -> None:
    verdicts = {row.verdict for each in SCENES for row in each.rows}
    assert verdicts == {"flood", "drop no-receiver"}


@pytest.mark.kernel
@pytest.mark.parametrize("hook", list(Hook), ids=str)
def test_storms_are_of_what_is_flooded(hook: Hook, tmp_path: Path) -> None:
    """A limit is for floods: it does not touch a group that goes where it is wanted."""
    model = plain_model()
    storm = {port: {"storm": {"multicast": "1/s"}} for port in PLAIN}
    config = {"kind": "bridge", "multicast": {}, "ports": storm}
    kept = {bytes(4): FOR_EVER_NS.to_bytes(8, "little")}
    maps = {"tested__mdb": entries(model, PLAIN), "tested__mdb_kept_until": kept}
    with Bench(config, PLAIN, hook, tmp_path, maps) as bench:
        known, flooded = frame(SOURCE, OTHERS["data"]), frame(SOURCE, OTHERS["mDNS"])
        assert [bench.receive("a", known).verdict for _ in range(5)] == ["flood"] * 5
        assert [bench.receive("a", flooded).verdict for _ in range(3)] == ["flood", "drop storm", "drop storm"]


# --- on the wire ------------------------------------------------------------------------------------------------------

VLAN_PORTS: dict[str, tuple[dict[str, Any], Any]] = {
    "a10": ({"vlan": {"access": 10}}, access(10)),
    "b10": ({"vlan": {"access": 10}}, access(10)),
    "a20": ({"vlan": {"access": 20}}, access(20)),
    "tag": ({"vlan": {"trunk": [10, 20]}}, trunk(10, 20)),
    "nat": ({"vlan": {"trunk": [10], "native": 20}}, trunk(10, native=20)),
    "c10": ({"vlan": {"access": 10}}, access(10)),
}


def vlan_model() -> MulticastModel:
    """VLAN 10 is snooped for IPv4 with members everywhere but at `c10`, VLAN 20 for IPv6; the rest is flooded."""
    return MulticastModel(
        VlanBridgeModel({port: meaning for port, (_, meaning) in VLAN_PORTS.items()}),
        {
            (10, ip_address(V4)): ports_of("b10", "nat", "tag"),
            (20, ip_address(V6)): ports_of("a20", "tag"),
            (20, ip_address(V4)): ports_of("nat"),
        },
        {
            (10, 4): Snooped(ports_of("tag"), ports_of("tag")),
            (20, 6): Snooped(None, ports_of("nat")),
            (20, 4): Snooped(ports_of(), ports_of()),
        },
    )


TAGS = {"": "", "VLAN 10": "8100600a", "VLAN 20": "81000014", "priority": "8100e000", "double": "8100000a81000014",
        "802.1ad": "88a8000a"}  # fmt: skip


USUAL = {port: "8100200a" if port in ("tag", "nat") else "" for port in VLAN_PORTS}


def chain(mode: str, ports: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", "multicast": {}, "ports": dict(ports)}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


def write(compiled: Compiled, name: str, content: Mapping[bytes, bytes]) -> None:
    """As the control plane does, whose daemon does not run here."""
    (record,) = [record for record in compiled.manifest.maps if record.name == f"br0__{name}"]
    generation = max(chain_pins(bpffs_root(None), compiled.manifest.chain).generations(), key=lambda pins: pins.number)
    with kernel.obj_get(generation.map(record.name, record.layout)) as fd:
        kernel.map_update_batch(fd, list(content), list(content.values()))


def keep(compiled: Compiled, until_ns: int = FOR_EVER_NS) -> None:
    write(compiled, "mdb_kept_until", {bytes(4): until_ns.to_bytes(8, "little")})


def station(port: str) -> bytes:
    return bytes([2, 0xBB, 0, 0, 0, sum(port.encode()) & 0xFF])


FEW = ("data", "data of nobody's group", "IPv6 data", "IPv6 data of nobody's group", "mDNS", "not IP")


def every_frame(usual: Mapping[str, str], tags: Sequence[str]) -> list[tuple[str, bytes]]:
    """At each port all frames of the tables behind the port's usual tag, and a few behind each tag; all different."""
    contents, made = MESSAGES | OTHERS, []
    serial = itertools.count()
    for port, tag in usual.items():
        behind = [(tag, name) for name in contents] + list(itertools.product(tags, (*FEW, "IGMPv3 report")))
        for each, name in behind:
            sent = frame(station(port), contents[name], bytes.fromhex(each))
            made.append((port, sent + next(serial).to_bytes(4)))
    return made


@pytest.mark.kernel
@every_mode
def test_without_vlans_every_frame_goes_where_it_is_wanted(mode: str, tmp_path: Path) -> None:
    """Known, then unkept: whoever keeps the database may die, and then everything is flooded."""
    model = plain_model()
    frames = every_frame(dict.fromkeys(PLAIN, ""), ("8100000a", "88a8000a"))
    with network(*PLAIN) as net, running(net.dut, chain(mode, {port: {} for port in PLAIN}), tmp_path) as compiled:
        write(compiled, "mdb", entries(model, PLAIN))
        keep(compiled)
        kept = check(net, model, frames)
        keep(compiled, time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 10**9)
        model.kept = False
        assert check(net, model, frames) > kept


@pytest.mark.kernel
@every_mode
@pytest.mark.parametrize("vlan", [{}, {"vlan": {"access": 10}}], ids=["plain", "vlan"])
def test_a_flood_with_one_receiver(mode: str, vlan: dict[str, Any], tmp_path: Path) -> None:
    """Between two ports no copy is made: the packet itself is held back, or goes on."""
    ports, number = ("left", "right"), 10 if vlan else 0
    model = MulticastModel(
        VlanBridgeModel(dict.fromkeys(ports, access(10))) if vlan else BridgeModel(ports),
        {(number, ip_address(V4)): ports_of("right"), (number, ip_address(V6)): ports_of()},
        {(number, version): Snooped(ports_of(), ports_of()) for version in (4, 6)},
    )
    with network(*ports) as net, running(net.dut, chain(mode, dict.fromkeys(ports, vlan)), tmp_path) as compiled:
        write(compiled, "mdb", entries(model, ports))
        keep(compiled)
        assert check(net, model, every_frame(dict.fromkeys(ports, ""), ())) > 0


@pytest.mark.kernel
@every_mode
def test_with_vlans_every_frame_goes_where_it_is_wanted(mode: str, tmp_path: Path) -> None:
    """A membership is of one VLAN; what is known of another one does not count."""
    model, ports = vlan_model(), tuple(VLAN_PORTS)
    with (
        network(*ports) as net,
        running(net.dut, chain(mode, {port: said for port, (said, _) in VLAN_PORTS.items()}), tmp_path) as compiled,
    ):
        write(compiled, "mdb", entries(model, ports))
        keep(compiled)
        assert check(net, model, every_frame(USUAL, tuple(TAGS.values()))) > 0


@pytest.mark.kernel
@every_mode
def test_other_floods_are_what_they_were(mode: str, tmp_path: Path) -> None:
    """Broadcasts and unknown stations go to all, whatever IP address is in them; a known station's frames to it."""
    model = plain_model()
    with network(*PLAIN) as net, running(net.dut, chain(mode, {port: {} for port in PLAIN}), tmp_path) as compiled:
        write(compiled, "mdb", entries(model, PLAIN))
        keep(compiled)
        for destination in (b"\xff" * 6, bytes.fromhex("02ff00000001")):
            sent = destination + SOURCE + OTHERS["data"]
            net.send("a", sent)
            assert net.arrivals(b=1, c=1, up=1) == {"b": [sent], "c": [sent], "up": [sent]}
        sent = SOURCE + station("b") + OTHERS["data"]
        net.send("b", sent)
        assert net.arrivals(a=1) == {"a": [sent]}
