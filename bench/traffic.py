"""What is sent: how many flows, in which order, how large; the same each time."""

from __future__ import annotations

import ipaddress
import itertools
import random
from collections.abc import Mapping
from dataclasses import dataclass

ORDER_LENGTH = 65536  # ORDER_LENGTH in bpf/frame.h
SMALLEST_FRAME = 60  # bytes; 64 on the wire of an Ethernet, with its checksum
SOURCES = ipaddress.IPv4Network("10.0.0.0/8")
"""What every flow's address is from: SOURCE_NETWORK in bpf/frame.h."""

_SEED = 2018


@dataclass(frozen=True, slots=True)
class Traffic:
    """UDP in IPv4 from `flows` stations to one, each with a MAC and an IP address of its own.

    `spread`: to as many destinations, all behind the next station.

    Flows are drawn at random, each as likely as any other, or (`zipf`) the one of rank r with a weight of 1/r. With a
    `vlan`, frames are tagged, and `frame_bytes` has the four bytes of the tag in it.
    """

    name: str
    flows: int = 1
    zipf: bool = False
    frame_bytes: int = SMALLEST_FRAME
    vlan: int | None = None
    spread: bool = False

    def defines(self, *, stamped: bool) -> Mapping[str, int]:
        """For bpf/generator.c."""
        return {
            "FRAME_BYTES": self.frame_bytes,
            "VLAN_ID": self.vlan or 0,
            "STAMPED": int(stamped),
            "SPREAD": int(self.spread),
        }

    def identities(self) -> list[int]:
        """A random number for each flow: bytes 2 to 5 of its MAC address; its lower 24 bits are in its IP address."""
        return random.Random(_SEED).sample(range(1 << 32), self.flows)  # noqa: S311  # the same each time

    def destinations(self) -> list[int]:
        """Of each flow that is spread: as spread_destination() in bpf/frame.h has them."""
        return [(20 + (flow >> 24) % 100) << 24 | flow & 0xFFFFFF for flow in self.identities()]

    def order(self) -> list[int]:
        """The identity of each frame's flow, in the order of sending."""
        identities, generator = self.identities(), random.Random(_SEED + 1)  # noqa: S311
        if self.zipf:
            weights = list(itertools.accumulate(1 / rank for rank in range(1, self.flows + 1)))
            return generator.choices(identities, cum_weights=weights, k=ORDER_LENGTH)
        repeated = identities * (ORDER_LENGTH // self.flows) + identities[: ORDER_LENGTH % self.flows]
        generator.shuffle(repeated)
        return repeated
