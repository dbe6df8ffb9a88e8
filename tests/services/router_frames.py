"""Frames for the router, built byte by byte: IPv4 and IPv6 with right checksums, ARP, neighbour discovery."""

from __future__ import annotations

import ipaddress
import struct

IPV4, IPV6, ARP = 0x0800, 0x86DD, 0x0806
ICMP, TCP, UDP, GRE, ICMPV6 = 1, 6, 17, 47, 58
HOP_BY_HOP, DESTINATION, FRAGMENT = 0, 60, 44
REQUEST, REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_OPTION, TARGET_OPTION = 1, 2


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def checksum(content: bytes) -> int:
    """RFC 1071, word by word."""
    padded = content + bytes(len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(source: str, destination: str, ethertype: int, payload: bytes) -> bytes:
    return mac(destination) + mac(source) + ethertype.to_bytes(2, "big") + payload


def ports(source: int = 4000, destination: int = 80, rest: bytes = bytes(16)) -> bytes:
    """The beginning of a transport header that has ports."""
    return struct.pack("!HH", source, destination) + rest


def ipv4(
    source: str,
    destination: str,
    payload: bytes = ports(),
    *,
    protocol: int = UDP,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 1,
    fragment: int = 0,
    options: bytes = b"",
    version: int = 4,
    ihl: int | None = None,
    total: int | None = None,
    wrong_checksum: int = 0,
) -> bytes:
    """An IPv4 packet; `fragment` is the field of flags and offset, `wrong_checksum` is added to the right one."""
    words = 5 + len(options) // 4 if ihl is None else ihl
    size = 20 + len(options) + len(payload) if total is None else total
    start = struct.pack("!BBHHHBB", version << 4 | words, tos, size, identification, fragment, ttl, protocol)
    addresses = packed(source) + packed(destination) + options
    right = checksum(start + bytes(2) + addresses)
    return start + ((right + wrong_checksum) & 0xFFFF).to_bytes(2, "big") + addresses + payload


def ipv6(
    source: str,
    destination: str,
    payload: bytes = ports(),
    *,
    protocol: int = UDP,
    hop_limit: int = 64,
    flow: int = 0,
    version: int = 6,
    size: int | None = None,
) -> bytes:
    """An IPv6 packet; `protocol` is that of the first header of `payload`."""
    start = struct.pack("!IHBB", version << 28 | flow, len(payload) if size is None else size, protocol, hop_limit)
    return start + packed(source) + packed(destination) + payload


def arp(
    operation: int,
    sender: tuple[str, str],
    target: tuple[str, str],
    *,
    hardware: int = 1,
    protocol: int = IPV4,
    lengths: tuple[int, int] = (6, 4),
) -> bytes:
    """An ARP packet for Ethernet and IPv4; `sender` and `target` are (MAC, address)."""
    start = struct.pack("!HHBBH", hardware, protocol, *lengths, operation)
    return start + mac(sender[0]) + packed(sender[1]) + mac(target[0]) + packed(target[1])


def icmp6(source: str, destination: str, message: bytes, *, hop_limit: int = 255, wrong_checksum: int = 0) -> bytes:
    """An ICMPv6 packet: `message` with two zero bytes where its checksum goes (RFC 4443 2.3)."""
    pseudo = packed(source) + packed(destination) + struct.pack("!II", len(message), ICMPV6)
    right = checksum(pseudo + message)
    summed = message[:2] + ((right + wrong_checksum) & 0xFFFF).to_bytes(2, "big") + message[4:]
    return ipv6(source, destination, summed, protocol=ICMPV6, hop_limit=hop_limit)


def option(kind: int, link_address: str) -> bytes:
    """The option that carries a MAC address (RFC 4861 4.6.1)."""
    return bytes((kind, 1)) + mac(link_address)


def solicitation(target: str, options: bytes, *, code: int = 0) -> bytes:
    return bytes((SOLICITATION, code, 0, 0)) + bytes(4) + packed(target) + options


def advertisement(target: str, options: bytes, flags: int = 0xE0) -> bytes:
    return bytes((ADVERTISEMENT, 0, 0, 0)) + bytes((flags, 0, 0, 0)) + packed(target) + options


def link_local(link_address: str) -> str:
    """RFC 4291 appendix A."""
    octets = mac(link_address)
    identifier = bytes((octets[0] ^ 2,)) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))
