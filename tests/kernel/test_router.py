"""A router with its control plane, on the wire: neighbours, held packets, ICMP, restarts; bytes at its links."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import bpfchain
from compiler.build import Compiled, build
from runtime import sys
from runtime.bpffs import bpffs_root
from runtime.load import load_object
from runtime.netns import entered
from runtime.object import read_object
from runtime.pin import chain_pins
from runtime.uapi import AttachType
from schemas.manifest import Mode
from tests.clang.c import compile_c
from tests.rig.daemon import DaemonProcess, daemon, own_bpffs
from tests.rig.network import Network, network, running
from tests.services import router_frames as frames
from tests.services.router_frames import ARP, IPV4, IPV6, arp, ethernet, icmp6, ipv4, ipv6, option, ports

pytestmark = [pytest.mark.kernel]
every_mode = pytest.mark.parametrize("mode", list(Mode), ids=str)

LEFT, RIGHT, HOST, SERVER = "02:00:00:00:01:01", "02:00:00:00:02:01", "52:54:00:00:00:01", "52:54:00:00:00:02"
HERE, THERE, HERE6, THERE6 = "10.7.1.10", "10.7.2.20", "fd00:1::10", "fd00:2::20"
BROADCAST = "ff:ff:ff:ff:ff:ff"


def chain(mode: Mode, **more: Any) -> dict[str, Any]:
    return {
        "mode": mode.value,
        "interfaces": {"left": {"device": "left"}, "right": {"device": "right"}},
        "services": {
            "gw": {
                "kind": "router",
                "ports": {
                    "left": {"address": ["10.7.1.1/24", "fd00:1::1/64"], "mac": LEFT},
                    "right": {"address": ["10.7.2.1/24", "fd00:2::1/64"], "mac": RIGHT, "mtu": 1400},
                },
                **more,
            }
        },
        "links": [["left", "gw.left"], ["gw.right", "right"]],
    }


@dataclass(slots=True)
class Served:
    """A router that runs, with its daemon."""

    net: Network
    process: DaemonProcess
    name: str

    def heard(self, **expected: int) -> dict[str, list[bytes]]:
        return self.net.arrivals(**expected)

    def reload(self, described: dict[str, Any], folder: Path) -> None:
        file = folder / "changed.yaml"
        file.write_text(yaml.safe_dump({"chain": self.name, **described}, sort_keys=False))
        with entered(self.net.dut.name):
            bpfchain.apply(bpfchain.compile(file, folder / "changed"))

    def introduce(self) -> None:
        """Both hosts become known to the router: by a packet each way that has to be resolved."""
        self.net.send("left", ethernet(HOST, LEFT, IPV4, ipv4(HERE, THERE)))
        self.heard(right=1)
        self.net.send("right", ethernet(SERVER, RIGHT, ARP, arp(2, (SERVER, THERE), (RIGHT, "10.7.2.1"))))
        self.heard(right=1)
        self.net.send("right", ethernet(SERVER, RIGHT, IPV4, ipv4(THERE, HERE)))
        self.heard(left=1)
        self.net.send("left", ethernet(HOST, LEFT, ARP, arp(2, (HOST, HERE), (LEFT, "10.7.1.1"))))
        self.heard(left=1)


@contextlib.contextmanager
def served(described: dict[str, Any], folder: Path) -> Iterator[Served]:
    with (
        own_bpffs(folder),
        daemon(folder) as process,
        network("left", "right") as net,
        running(net.dut, described, folder) as compiled,
    ):
        name = compiled.manifest.chain
        process.wait_for(name, "gw", "running")
        router = Served(net, process, name)
        announced = router.heard(left=2, right=2)
        assert {port: len(each) for port, each in announced.items()} == {"left": 2, "right": 2}
        yield router


@every_mode
def test_the_first_packet_is_delivered_once(mode: Mode, tmp_path: Path) -> None:
    """Its TTL is less by one, as if the neighbour had been known all the time; and so are those behind it."""
    packets = [ipv4(HERE, THERE, ports(number, 80), identification=number) for number in range(3)]
    after = [ipv4(HERE, THERE, ports(number, 80), identification=number, ttl=63) for number in range(3)]
    with served(chain(mode), tmp_path) as router:
        router.net.send("left", *[ethernet(HOST, LEFT, IPV4, packet) for packet in packets])
        asked = ethernet(RIGHT, BROADCAST, ARP, arp(1, (RIGHT, "10.7.2.1"), ("00:00:00:00:00:00", THERE)))
        assert router.heard(right=1) == {"right": [asked.ljust(60, b"\0")]}
        router.net.send("right", ethernet(SERVER, RIGHT, ARP, arp(2, (SERVER, THERE), (RIGHT, "10.7.2.1"))))
        delivered = [ethernet(RIGHT, SERVER, IPV4, packet) for packet in after]
        assert router.heard(right=3) == {"right": delivered}
        router.net.send("left", ethernet(HOST, LEFT, IPV4, packets[0]))
        assert router.heard(right=1) == {"right": delivered[:1]}


@every_mode
def test_the_first_ipv6_packet_is_delivered_once(mode: Mode, tmp_path: Path) -> None:
    with served(chain(mode), tmp_path) as router:
        router.net.send("left", ethernet(HOST, LEFT, IPV6, ipv6(HERE6, THERE6)))
        solicitation = icmp6("fd00:2::1", "ff02::1:ff00:20", frames.solicitation(THERE6, option(1, RIGHT)))
        assert router.heard(right=1) == {"right": [ethernet(RIGHT, "33:33:ff:00:00:20", IPV6, solicitation)]}
        answer = icmp6(THERE6, "fd00:2::1", frames.advertisement(THERE6, option(2, SERVER), 0x60))
        router.net.send("right", ethernet(SERVER, RIGHT, IPV6, answer))
        assert router.heard(right=1) == {"right": [ethernet(RIGHT, SERVER, IPV6, ipv6(HERE6, THERE6, hop_limit=63))]}


FORGER = """
struct __sk_buff { u32 before[11], tc_index; };
static long (*const bpf_xdp_adjust_meta)(struct xdp_md *ctx, int delta) = (void *)54;

SEC("xdp") int forge_xdp(struct xdp_md *ctx)
{
	if (bpf_xdp_adjust_meta(ctx, -4))
		return 1;
	u32 *mark = (void *)(long)ctx->data_meta;
	if ((void *)(mark + 1) > (void *)(long)ctx->data)
		return 1;
	*mark = 0x6266;
	return 3;
}

SEC("tc") int forge_tc(struct __sk_buff *skb)
{
	skb->tc_index = 0x6266;
	return -1;
}
"""
"""Marks of injection beside frames that the far end of a cable sends: at XDP those that it has just received."""


@pytest.mark.parametrize("mode", [Mode.NATIVE, Mode.TC], ids=str)
def test_a_mark_that_a_peer_has_made_is_none(mode: Mode, tmp_path: Path) -> None:
    """In generic mode there is no metadata from before (bpf_prog_run_generic_xdp(), net/core/dev.c)."""
    forged = ethernet(LEFT, LEFT, IPV4, ipv4("10.7.1.1", THERE, ports(1, 9)))
    with served(chain(mode), tmp_path) as router, load_object(read_object(compile_c(FORGER)), maps={}) as forger:
        router.introduce()
        cable = router.net.cables["left"]
        tc = mode is Mode.TC
        program, at = ("forge_tc", AttachType.BPF_TCX_EGRESS) if tc else ("forge_xdp", AttachType.BPF_XDP)
        with entered(cable.station.namespace.name):
            link = sys.link_create(forger.programs[program], cable.station.ifindex, at)
        with entered(router.net.dut.name), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as back:
            back.bind(("left", 0))
            for _ in range(20):  # the far end may miss the first ones
                if tc:
                    router.net.send("left", forged)
                else:
                    back.send(forged)
                assert router.heard() == {}
                if "invalid-source" in bpfchain.status(router.name).service("gw").drops:
                    break
            else:
                pytest.fail("none has arrived")
        link.close()


def echo(number: int) -> bytes:
    message = b"\x08\0\0\0\x12\x34" + number.to_bytes(2, "big") + bytes(24)
    summed = message[:2] + frames.checksum(message).to_bytes(2, "big") + message[4:]
    return ethernet(HOST, LEFT, IPV4, ipv4(HERE, "10.7.1.1", summed, protocol=frames.ICMP))


def test_no_packet_is_answered_twice(tmp_path: Path) -> None:
    """Requests before, while and after the daemon is dead: each has one answer, those that waited in the ring too."""
    with served(chain(Mode.NATIVE), tmp_path) as router:
        router.introduce()
        router.net.send("left", *[echo(number) for number in range(10)])
        answers = router.heard(left=10)["left"]
        router.process.kill()
        router.net.send("left", *[echo(number) for number in range(10, 20)])
        assert router.heard() == {}
        router.process.start()
        answers += [each for each in router.heard(left=12)["left"] if each[12:14] == b"\x08\0"]
        router.net.send("left", *[echo(number) for number in range(20, 30)])
        answers += router.heard(left=10)["left"]
    assert [int.from_bytes(each[40:42], "big") for each in answers] == list(range(30))


def test_what_is_known_survives_the_daemon_and_a_reload(tmp_path: Path) -> None:
    packet, after = ipv4(HERE, THERE), ipv4(HERE, THERE, ttl=63)
    delivered = {"right": [ethernet(RIGHT, SERVER, IPV4, after)]}
    with served(chain(Mode.NATIVE), tmp_path) as router:
        router.introduce()
        router.process.kill()
        router.net.send("left", ethernet(HOST, LEFT, IPV4, packet))
        assert router.heard(right=1) == delivered
        router.reload(chain(Mode.NATIVE, routes=[{"to": "192.0.2.0/24", "via": THERE}]), tmp_path)
        router.net.send("left", ethernet(HOST, LEFT, IPV4, packet))
        assert router.heard(right=1) == delivered
        beyond = ethernet(HOST, LEFT, IPV4, ipv4(HERE, "192.0.2.1"))
        router.net.send("left", beyond)
        expected = ethernet(RIGHT, SERVER, IPV4, ipv4(HERE, "192.0.2.1", ttl=63))
        assert router.heard(right=1) == {"right": [expected]}, "the neighbour is known under its new route as well"


def test_packets_that_wait_outlive_a_reload(tmp_path: Path) -> None:
    """They take the way of the new generation, and count as one hop all the same."""
    packets = [ipv4(HERE, "192.0.2.1", ports(number, 80), identification=number) for number in range(3)]
    after = [ipv4(HERE, "192.0.2.1", ports(number, 80), identification=number, ttl=63) for number in range(3)]
    old, new = ("10.7.2.66", "10.7.2.77")
    with served(chain(Mode.NATIVE, routes=[{"to": "192.0.2.0/24", "via": old}]), tmp_path) as router:
        router.net.send("left", *[ethernet(HOST, LEFT, IPV4, packet) for packet in packets])
        asked = ethernet(RIGHT, BROADCAST, ARP, arp(1, (RIGHT, "10.7.2.1"), ("00:00:00:00:00:00", old)))
        assert router.heard(right=1) == {"right": [asked.ljust(60, b"\0")]}
        router.reload(chain(Mode.NATIVE, routes=[{"to": "192.0.2.0/24", "via": new}]), tmp_path)
        asked = ethernet(RIGHT, BROADCAST, ARP, arp(1, (RIGHT, "10.7.2.1"), ("00:00:00:00:00:00", new)))
        heard: list[bytes] = []
        while asked.ljust(60, b"\0") not in heard:  # until then the old next hop may be asked once more
            heard += router.heard(right=1)["right"]
        router.net.send("right", ethernet(SERVER, RIGHT, ARP, arp(2, (SERVER, new), (RIGHT, "10.7.2.1"))))
        assert router.heard(right=3) == {"right": [ethernet(RIGHT, SERVER, IPV4, packet) for packet in after]}


def neighbours_version(router: Served) -> int:
    pins = chain_pins(bpffs_root(), router.name).generations()[-1]
    record = pins.read_record()
    assert record
    (found,) = [each for each in record.manifest.maps if each.name == "gw__neighbours_version"]
    with sys.obj_get(pins.map(found.name, found.layout)) as opened:
        ((_, value),) = sys.map_entries(opened, found.key_size, found.value_size)
    return int.from_bytes(value, "little")


def test_a_control_plane_that_begins_lets_all_neighbours_be_looked_up_anew(tmp_path: Path) -> None:
    """Who has brought them over from another generation may have written other MACs."""
    with served(chain(Mode.NATIVE), tmp_path) as router:
        router.introduce()
        router.process.kill()
        before = neighbours_version(router)
        router.process.start()
        router.process.wait_for(router.name, "gw", "running")
        assert neighbours_version(router) != before


def test_a_device_that_has_changed_changes_nothing_until_the_next_apply(tmp_path: Path) -> None:
    """Programs keep the MTU and the MAC that they were loaded with, and so does a control plane that starts later."""
    described = chain(Mode.NATIVE)
    for port in described["services"]["gw"]["ports"].values():
        port.pop("mac"), port.pop("mtu", None)
    with own_bpffs(tmp_path), daemon(tmp_path) as process, network("left", "right") as net:
        left, right = net.cables["left"].port, net.cables["right"].port
        with net.dut.netlink() as netlink:
            netlink.link("set", index=right.ifindex, mtu=1400)
            with running(net.dut, described, tmp_path) as compiled:
                router = Served(net, process, compiled.manifest.chain)
                process.wait_for(router.name, "gw", "running")
                router.heard(left=2, right=2)
                process.kill()
                netlink.link("set", index=right.ifindex, mtu=1500)
                netlink.link("set", index=left.ifindex, address="02:00:00:00:99:99")
                process.start()
                process.wait_for(router.name, "gw", "running")
                net.send("left", ethernet(HOST, left.mac, IPV4, ipv4(HERE, THERE, bytes(1450))))
                asked = [frame for frame in router.heard(left=2, right=3)["right"] if frame[12:14] == b"\x08\x06"]
                assert asked, "no piece has come so far that the router needs the neighbour's MAC"
                net.send("right", ethernet(SERVER, right.mac, ARP, arp(2, (SERVER, THERE), (right.mac, "10.7.2.1"))))
                pieces = router.heard(right=2)["right"]
    assert [len(piece) - 14 for piece in pieces] == [1396, 94]


def test_another_gateway_compiles_nothing(tmp_path: Path) -> None:
    def compiled(gateway: str) -> Compiled:
        routes = [{"to": "192.0.2.0/24", "via": gateway}]
        file = tmp_path / "gateway.yaml"
        file.write_text(yaml.safe_dump({"chain": "gateway", **chain(Mode.NATIVE, routes=routes)}, sort_keys=False))
        return build(file)

    first, second = compiled("10.7.2.10"), compiled("10.7.2.20")
    assert [each.elf for each in first.programs] == [each.elf for each in second.programs]


def test_who_claims_an_address_of_the_router_is_told_otherwise(tmp_path: Path) -> None:
    with served(chain(Mode.NATIVE), tmp_path) as router:
        claim = ethernet(SERVER, BROADCAST, ARP, arp(1, (SERVER, "10.7.2.1"), (SERVER, "10.7.2.1")))
        router.net.send("right", claim, claim)
        announced = router.heard(right=1)["right"]
        own = arp(1, (RIGHT, "10.7.2.1"), ("00:00:00:00:00:00", "10.7.2.1"))
        assert announced == [ethernet(RIGHT, BROADCAST, ARP, own).ljust(60, b"\0")], "one, not one for each claim"


# --- one device, two VLANs ------------------------------------------------------------------------------------------


def in_vlan(frame: bytes, vlan: int) -> bytes:
    return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]


@every_mode
def test_a_router_on_a_stick(mode: Mode, tmp_path: Path) -> None:
    """Two VLANs of one device, routed to each other: what the control plane sends is tagged as well."""
    described = chain(mode)
    described["interfaces"] = {"left": {"device": "trunk", "vlan": 10}, "right": {"device": "trunk", "vlan": 20}}
    with (
        own_bpffs(tmp_path),
        daemon(tmp_path) as process,
        network("trunk") as net,
        running(net.dut, described, tmp_path) as compiled,
    ):
        process.wait_for(compiled.manifest.chain, "gw", "running")
        announced = net.arrivals(trunk=4)["trunk"]
        assert sorted(frame[12:16].hex() for frame in announced) == ["8100000a"] * 2 + ["81000014"] * 2
        net.send("trunk", in_vlan(ethernet(HOST, LEFT, IPV4, ipv4(HERE, THERE)), 10))
        asked = ethernet(RIGHT, BROADCAST, ARP, arp(1, (RIGHT, "10.7.2.1"), ("00:00:00:00:00:00", THERE)))
        (arrived,) = net.arrivals(trunk=1)["trunk"]
        assert arrived == in_vlan(asked.ljust(60, b"\0"), 20)
        answer = ethernet(SERVER, RIGHT, ARP, arp(2, (SERVER, THERE), (RIGHT, "10.7.2.1")))
        net.send("trunk", in_vlan(answer, 20))
        routed = in_vlan(ethernet(RIGHT, SERVER, IPV4, ipv4(HERE, THERE, ttl=63)), 20)
        assert net.arrivals(trunk=1) == {"trunk": [routed]}
        net.send("trunk", in_vlan(ethernet(HOST, LEFT, IPV4, ipv4(HERE, THERE)), 10))
        assert net.arrivals(trunk=1) == {"trunk": [routed]}
        net.send("trunk", ethernet(HOST, LEFT, IPV4, ipv4(HERE, THERE)))
        net.send("trunk", in_vlan(ethernet(HOST, LEFT, IPV4, ipv4(HERE, THERE)), 30))
        assert net.arrivals() == {}


# --- forged frames ---------------------------------------------------------------------------------------------------


@every_mode
def test_a_frame_of_a_station_with_the_routers_own_mac_is_not_taken_for_the_control_planes(
    mode: Mode, tmp_path: Path
) -> None:
    """It may not come from the router's address, nor pass with options; what the router says itself is let through."""
    forged = ipv4("10.7.1.1", THERE, ports(1, 9))
    with served(chain(mode), tmp_path) as router:
        router.introduce()
        router.net.send("left", ethernet(LEFT, LEFT, IPV4, forged))
        router.net.send("left", ethernet(LEFT, LEFT, IPV4, ipv4(HERE, THERE, options=b"\x07\x07\x04" + bytes(5))))
        router.net.send("left", echo(1))
        heard = router.heard(left=1)
        assert [frame[:12].hex() for frame in heard["left"]] == [(HOST + LEFT).replace(":", "")]
        assert "right" not in heard
        with entered(router.net.dut.name):
            dropped = bpfchain.status(router.name).service("gw").drops
        assert dropped["invalid-source"].packets == 2
