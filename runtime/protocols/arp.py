"""ARP for Ethernet and IPv4 (RFC 826): bytes of a packet in, who tells whom what out, and back."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import NamedTuple

from .ethernet import BROADCAST, ETH_P_ARP, Frame

REQUEST, REPLY = 1, 2
_PACKET = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET_IPV4 = (1, 0x0800, 6, 4)
_NO_MAC = bytes(6)
_NO_ADDRESS = IPv4Address(0)


class Arp(NamedTuple):
    """An ARP packet."""

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address

    def packed(self) -> bytes:
        addresses = (self.sender_mac, self.sender.packed, self.target_mac, self.target.packed)
        return _PACKET.pack(*_ETHERNET_IPV4, self.operation, *addresses)


def read_arp(packet: bytes) -> Arp:
    """Raises ValueError for what is no ARP for Ethernet and IPv4."""
    if len(packet) < _PACKET.size:
        raise ValueError("cut short")
    *kinds, operation, sender_mac, sender, target_mac, target = _PACKET.unpack_from(packet)
    if tuple(kinds) != _ETHERNET_IPV4:
        raise ValueError("not for Ethernet and IPv4")
    return Arp(operation, sender_mac, IPv4Address(sender), target_mac, IPv4Address(target))


def request(mac: bytes, sender: IPv4Address, target: IPv4Address, to: bytes = BROADCAST) -> bytes:
    """A frame that asks who has `target`; `to` a neighbour that is known, it asks whether that is so still."""
    return Frame(to, mac, ETH_P_ARP, Arp(REQUEST, mac, sender, _NO_MAC, target).packed()).packed()


def reply(mac: bytes, asked: Arp) -> bytes:
    """The frame that answers `asked`: its target is at `mac`."""
    packet = Arp(REPLY, mac, asked.target, asked.sender_mac, asked.sender)
    return Frame(asked.sender_mac, mac, ETH_P_ARP, packet.packed()).packed()


def probe(mac: bytes, address: IPv4Address) -> bytes:
    """A frame that asks who has `address` without saying that anybody has it (RFC 5227 2.1.1)."""
    return request(mac, _NO_ADDRESS, address)


def announcement(mac: bytes, address: IPv4Address) -> bytes:
    """The frame by which all neighbours learn where `address` is (RFC 5227 3)."""
    return request(mac, address, address)
