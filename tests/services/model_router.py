"""A router after RFC 1812 and RFC 8200 in plain Python: a frame and its port in, the verdict and the frame out."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.services.router_frames import checksum, link_local, mac

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BROADCAST = b"\xff" * 6
TRANSPORTS_WITH_PORTS = (6, 17, 136, 132, 33)
MARTIAN4 = [
    ipaddress.IPv4Network(prefix)
    for prefix in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
]
UNSPECIFIED, LOOPBACK = ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1")
LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
PINGED_GROUPS = ("ff02::1", "ff02::2")


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop as the chain file means it: out of a port, to a gateway or to the destination itself; or a refusal."""

    refusal: str = ""
    port: str = ""
    gateway: Address | None = None


@dataclass(slots=True)
class RouterModel:
    """One router. `config` is what the chain file has; `neighbours` are known by (port, address)."""

    config: Mapping[str, Any]
    neighbours: Mapping[tuple[str, str], str]
    mtus: Mapping[str, int] = field(default_factory=dict)

    def receive(self, port: str, frame: bytes) -> str:
        return self.forward(port, frame)[0]

    def inject(self, port: str, frame: bytes) -> str:
        return self.forward(port, frame, injected=True)[0]

    def forward(self, port: str, frame: bytes, *, injected: bool = False) -> tuple[str, bytes]:
        """The verdict, and the frame as it is then."""
        destination, source, ethertype = frame[:6], frame[6:12], frame[12:14]
        if destination != self._mac(port) and not destination[0] & 1:
            return "drop other-station", frame
        own = source == self._mac(port)
        if source[0] & 1 or (own and not injected):
            return "drop invalid-source", frame
        versions = {address.version for address in self._own(port)}
        if ethertype == b"\x08\x00" and 4 in versions:
            return self._ipv4(port, frame, own=own)
        if ethertype == b"\x86\xdd" and 6 in versions:
            return self._ipv6(port, frame, own=own)
        if ethertype == b"\x08\x06" and 4 in versions:
            return self._arp(port, frame)
        return "drop unknown-protocol", frame

    def copies(self, port: str, frame: bytes, *, injected: bool = False) -> tuple[str, ...]:
        """Why a copy goes up besides: its sender may have to be redirected (RFC 1812 5.2.7.2, RFC 4861 8.2)."""
        verdict, out = self.forward(port, frame, injected=injected)
        came_back = verdict == f"out {port}" and frame[6:12] not in (self._mac(port), out[:6])
        if not came_back or not self.config["ports"][port].get("redirects", True):
            return ()
        packet, networks = frame[14:], [each.network for each in self._interfaces(port)]
        if frame[12:14] == b"\x08\x00":
            source, destination = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
            nexthop = self._hop(destination, lambda: _flow4(packet)).gateway or destination
            told = any(source in network and nexthop in network for network in networks)
        elif frame[12:14] == b"\x86\xdd" and out[14 + 7] == packet[7] - 1:  # and no advertisement of the router's
            source6, destination6 = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
            gateway = self._hop(destination6, lambda: _flow6(packet)).gateway
            told = (gateway is None or gateway in LINK_LOCAL) and any(source6 in network for network in networks)
        else:
            return ()
        return ("redirect",) if told else ()

    def _mac(self, port: str) -> bytes:
        return mac(self.config["ports"][port]["mac"])

    def _mtu(self, port: str) -> int:
        return int(self.config["ports"][port].get("mtu", self.mtus.get(port, 1500)))

    def _interfaces(self, port: str) -> list[Any]:
        written = self.config["ports"][port]["address"]
        return [ipaddress.ip_interface(each) for each in ([written] if isinstance(written, str) else written)]

    def _own(self, port: str) -> list[Address]:
        return [each.ip for each in self._interfaces(port)]

    def _every(self) -> Iterator[tuple[str, Any]]:
        for port in self.config["ports"]:
            yield from ((port, interface) for interface in self._interfaces(port))

    def _is_own(self, address: Address) -> bool:
        return any(address == interface.ip for _, interface in self._every())

    def _is_broadcast(self, address: Address) -> bool:
        return address.version == 4 and any(
            address == each.network.broadcast_address and each.network.prefixlen < 31 for _, each in self._every()
        )

    def _is_anycast(self, address: Address) -> bool:
        return address.version == 6 and any(
            address == each.network.network_address and each.network.prefixlen < 127 for _, each in self._every()
        )

    def _ipv4(self, port: str, frame: bytes, *, own: bool) -> tuple[str, bytes]:
        packet = frame[14:]
        if len(packet) < 20:
            return "drop truncated", frame
        words, total = packet[0] & 15, int.from_bytes(packet[2:4], "big")
        if packet[0] >> 4 != 4 or words < 5 or total < 4 * words:
            return "drop malformed", frame
        if total > len(packet):
            return "drop truncated", frame
        if checksum(packet[: 4 * words]) != 0:
            return "drop checksum", frame
        if frame[0] & 1:
            return "drop not-routed", frame
        source, destination = ipaddress.IPv4Address(packet[12:16]), ipaddress.IPv4Address(packet[16:20])
        if _martian4(source) or (not own and (self._is_own(source) or self._is_broadcast(source))):
            return "drop martian", frame
        if words > 5 and not own:
            return "slow-path options", frame
        if self._is_own(destination):
            return "slow-path local", frame
        if self._is_broadcast(destination):
            return "drop not-routed", frame
        if _martian4(destination):
            return "drop martian", frame
        hop = self._hop(destination, lambda: _flow4(packet))
        if hop.refusal:
            return hop.refusal, frame
        if packet[8] <= 1:
            return "slow-path expired", frame
        if total > self._mtu(hop.port):
            return "slow-path too-big", frame
        header = bytearray(packet[: 4 * words])
        header[8] -= 1
        header[10:12] = checksum(bytes(header[:10]) + bytes(2) + bytes(header[12:])).to_bytes(2, "big")
        return self._send(hop, destination, frame, bytes(header) + packet[4 * words :])

    def _ipv6(self, port: str, frame: bytes, *, own: bool) -> tuple[str, bytes]:
        packet = frame[14:]
        if len(packet) < 40:
            return "drop truncated", frame
        total = int.from_bytes(packet[4:6], "big") + 40
        if packet[0] >> 4 != 6:
            return "drop malformed", frame
        if total > len(packet):
            return "drop truncated", frame
        source, destination = ipaddress.IPv6Address(packet[8:24]), ipaddress.IPv6Address(packet[24:40])
        if source.is_multicast or source == LOOPBACK or destination in (UNSPECIFIED, LOOPBACK):
            return "drop martian", frame
        if source in MAPPED or destination in MAPPED:
            return "drop martian", frame
        if not own and (self._is_own(source) or self._is_anycast(source)):
            discovery = packet[6] == 58 and packet[7] == 255 and packet[40:41] in (b"\x87", b"\x88")
            return "slow-path nd" if discovery and source in self._own(port) else "drop martian", frame
        mine = self._is_own(destination) or self._is_anycast(destination) or str(destination) == self._link_local(port)
        if mine or destination.is_multicast:
            return self._local6(port, frame, destination)
        if frame[0] & 1:
            return "drop not-routed", frame
        if source == UNSPECIFIED or destination in LINK_LOCAL:
            return "drop martian", frame
        if source in LINK_LOCAL:
            return "slow-path scope", frame
        if packet[6] == 0 and not own:
            return "slow-path options", frame
        hop = self._hop(destination, lambda: _flow6(packet))
        if hop.refusal:
            return hop.refusal, frame
        if packet[7] <= 1:
            return "slow-path expired", frame
        if total > self._mtu(hop.port):
            return "slow-path too-big", frame
        return self._send(hop, destination, frame, packet[:7] + bytes((packet[7] - 1,)) + packet[8:])

    def _link_local(self, port: str) -> str:
        return link_local(self.config["ports"][port]["mac"])

    def _hop(self, destination: Address, flow: Any) -> Hop:
        """The longest prefix that has the destination in it, connected subnets first among equals."""
        routes = [(each.network, Hop(port=port)) for port, each in self._every()]
        best = max(
            [route for route in routes if destination in route[0]], key=lambda route: route[0].prefixlen, default=None
        )
        static = [route for route in self.config.get("routes", ()) if destination in ipaddress.ip_network(route["to"])]
        static.sort(key=lambda route: (-ipaddress.ip_network(route["to"]).prefixlen, route.get("metric", 0)))
        if static and (best is None or ipaddress.ip_network(static[0]["to"]).prefixlen > best[0].prefixlen):
            return self._static(static[0], flow)
        return best[1] if best else Hop(refusal="slow-path no-route")

    def _static(self, route: Mapping[str, Any], flow: Any) -> Hop:
        for key, refusal in (
            ("blackhole", "drop blackhole"),
            ("unreachable", "slow-path unreachable"),
            ("prohibit", "slow-path prohibited"),
        ):
            if key in route:
                return Hop(refusal=refusal)
        if "via" not in route:
            return Hop(port=route["port"])
        gateways = [route["via"]] if isinstance(route["via"], str) else route["via"]
        chosen = gateways[flow() * len(gateways) >> 32] if len(gateways) > 1 else gateways[0]
        gateway = ipaddress.ip_address(chosen)
        port = route.get("port") or next(port for port, each in self._every() if gateway in each.network)
        return Hop(port=port, gateway=gateway)

    def _send(self, hop: Hop, destination: Address, frame: bytes, packet: bytes) -> tuple[str, bytes]:
        neighbour = self.neighbours.get((hop.port, str(hop.gateway or destination)))
        if neighbour is None:
            return "slow-path resolve", frame
        return f"out {hop.port}", mac(neighbour) + self._mac(hop.port) + frame[12:14] + packet

    def _arp(self, port: str, frame: bytes) -> tuple[str, bytes]:
        packet = frame[14:]
        if len(packet) < 28:
            return "drop truncated", frame
        operation = int.from_bytes(packet[6:8], "big")
        if packet[:6] != bytes.fromhex("000108000604") or operation not in (1, 2) or packet[8] & 1:
            return "drop malformed", frame
        sender, target = ipaddress.IPv4Address(packet[14:18]), ipaddress.IPv4Address(packet[24:28])
        if sender in self._own(port) or self._moved(port, str(sender), packet[8:14]):
            return "slow-path arp", frame
        if target not in self._own(port):
            return "drop not-asked", frame
        if operation == 2:
            return "slow-path arp", frame
        answer = packet[:6] + b"\0\2" + self._mac(port) + packet[24:28] + packet[8:14] + packet[14:18]
        return f"out {port}", frame[6:12] + self._mac(port) + frame[12:14] + answer + packet[28:]

    def _moved(self, port: str, address: str, seen: bytes) -> bool:
        known = self.neighbours.get((port, address))
        return known is not None and mac(known) != seen

    def _local6(self, port: str, frame: bytes, destination: ipaddress.IPv6Address) -> tuple[str, bytes]:
        packet = frame[14:]
        if packet[6] == 58 and len(packet) > 40 and 133 <= packet[40] <= 137:
            return self._discovery(port, frame, destination)
        pinged = str(destination) in PINGED_GROUPS and packet[6] == 58 and packet[40:41] == b"\x80"
        if destination.is_multicast and not pinged:
            asks = packet[6] == 0 and packet[40:42] == b"\x3a\0" and packet[48:49] == b"\x82"
            return ("slow-path mld" if asks else "drop not-routed"), frame
        return ("slow-path options" if packet[6] == 0 else "slow-path local"), frame

    def _discovery(self, port: str, frame: bytes, destination: ipaddress.IPv6Address) -> tuple[str, bytes]:
        packet = frame[14:]
        if packet[40] == 133:
            told = "advertise" in self.config["ports"][port]
            return ("slow-path solicited" if told else "drop not-asked"), frame
        if len(packet) < 72:
            return "slow-path nd", frame
        if packet[7] != 255:
            return "drop malformed", frame
        kind, target = packet[40], ipaddress.IPv6Address(packet[48:64])
        usual = int.from_bytes(packet[4:6], "big") == 32
        if kind == 136:
            known = (port, str(target)) in self.neighbours
            news = known and (not usual or self._moved(port, str(target), packet[66:72]))
            claimed = target in self._own(port) or str(target) == self._link_local(port)
            return ("slow-path nd" if not destination.is_multicast or news or claimed else "drop not-asked"), frame
        if kind != 135:
            return "drop not-asked", frame
        source = ipaddress.IPv6Address(packet[8:24])
        anycast = target in [
            each.network.network_address for each in self._interfaces(port) if each.network.prefixlen < 127
        ]
        if not (target in self._own(port) or str(target) == self._link_local(port) or anycast):
            return "drop not-asked", frame
        odd = not usual or packet[64:66] != b"\1\1" or packet[41] != 0 or not any(source.packed[:8])
        if odd or self._moved(port, str(source), packet[66:72]):
            return "slow-path nd", frame
        pseudo = packet[8:40] + struct.pack("!II", 32, 58)
        if checksum(pseudo + packet[40:72]) != 0:
            return "drop checksum", frame
        flags = 0xE0 if not anycast or target in self._own(port) else 0xC0
        answer = b"\x88\0\0\0" + bytes((flags, 0, 0, 0)) + target.packed + b"\2\1" + self._mac(port)
        pseudo = target.packed + source.packed + struct.pack("!II", 32, 58)
        answer = answer[:2] + checksum(pseudo + answer).to_bytes(2, "big") + answer[4:]
        header = packet[:8] + target.packed + source.packed
        return f"out {port}", frame[6:12] + self._mac(port) + frame[12:14] + header + answer + packet[72:]


def _martian4(address: ipaddress.IPv4Address) -> bool:
    return any(address in network for network in MARTIAN4)


def _mixed(addresses: int, rest: int) -> int:
    """The flow hash of nexthop.h."""
    mixed = (addresses ^ addresses >> 32 ^ rest) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 % 2**64 >> 32


def _flow4(packet: bytes) -> int:
    """By addresses and protocol, and by ports where every packet of the flow has them."""
    rest = packet[9]
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
    if packet[9] in TRANSPORTS_WITH_PORTS and packet[0] & 15 == 5 and not fragment and len(packet) >= 24:
        rest |= int.from_bytes(packet[20:24], "little") << 32
    source, destination = (int.from_bytes(packet[at : at + 4], "little") for at in (12, 16))
    return _mixed(source << 32 | destination, rest)


def _flow6(packet: bytes) -> int:
    addresses = 0
    for at in range(4):
        for start in (8, 24):
            word = int.from_bytes(packet[start + 4 * at : start + 4 * at + 4], "little")
            addresses = (addresses * 0x9E3779B97F4A7C15 + word) & 0xFFFFFFFFFFFFFFFF
    rest = int.from_bytes(packet[:4], "little") & int.from_bytes((0xFFFFF).to_bytes(4, "big"), "little") | packet[6]
    if packet[6] in TRANSPORTS_WITH_PORTS and len(packet) >= 44:
        rest |= int.from_bytes(packet[40:44], "little") << 32
    return _mixed(addresses, rest)
