"""Stations, and the frames that they send to each other across a bridge."""

from __future__ import annotations

from tests.services.harness import Row

BROADCAST = "ff:ff:ff:ff:ff:ff"
FLOOD = "flood"
ETHERTYPE = bytes.fromhex("88b5")  # local experiments: no stack looks at it

A, B, C, D, E = (f"02:aa:00:00:00:0{digit}" for digit in "abcde")
GATEWAY, PRINTER, CAMERA = "52:54:00:12:34:56", "52:54:00:00:00:01", "52:54:00:00:00:02"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(source: str, destination: str, payload: bytes = bytes(46), ethertype: bytes = ETHERTYPE) -> bytes:
    return mac(destination) + mac(source) + ethertype + payload


def row(name: str, port: str, source: str, destination: str, verdict: str) -> Row:
    """A frame that says nothing but who sends it to whom."""
    return Row(name, port, ethernet(source, destination), verdict)
