"""The probe's control plane: does with each packet what its note says, and tells what it has seen when asked."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.control import Context, Packet, Port
from runtime.rtnetlink import Change, LinkChange, NeighbourChange, RouteChange

PASS, BOUNCE, ACROSS, RAISE, COUNT, BEACON, NOTHING, LISTEN = range(8)
"""Notes: let it arrive once more, send it back, send it out of the other port, fail, answer with a count, …"""

TICK_SECONDS = 0.05
PLAIN = b"\x88\xb5"
"""EtherType of frames that probes pass on."""


class Seen:
    """What outlives a reload: how many packets came, how often it was reloaded, and links that changed."""

    def __init__(self) -> None:
        self.packets = 0
        self.reloads = 0
        self.beacon = False
        self.listens = False


def start(context: Context) -> None:
    """Begins to count."""
    assert context.config == {"name": context.service}
    context.state = Seen()


def on_packet(context: Context, packet: Packet) -> None:
    """Does what the packet's note says."""
    seen: Seen = context.state
    seen.packets += 1
    other = next(port for port in context.ports.values() if port != packet.port)
    match packet.note:
        case 0:
            context.inject(packet.port, plain(packet.frame), packet.hook)
        case 1:
            context.send(packet.port, plain(packet.frame))
        case 2:
            context.send(other, plain(packet.frame))
        case 3:
            raise RuntimeError("told to fail")
        case 4:
            context.send(packet.port, told(packet.frame, seen.packets, seen.reloads))
        case 5:
            seen.beacon = True
        case 7:
            seen.listens = True


def tick(context: Context) -> None:
    """Sends a beacon, once it has been asked to."""
    if context.state.beacon:
        context.send("outside", bytes(6) + bytes(6) + PLAIN + b"beacon")


def on_link(context: Context, port: Port) -> None:
    """Tells the other port's neighbour."""
    other = next(each for each in context.ports.values() if each.name != port.name)
    context.send(other, bytes(12) + PLAIN + f"{port.name} {'up' if port.up else 'down'}".encode())


def on_netlink(context: Context, netns: str | None, changes: Sequence[Change]) -> None:
    """Sends a frame for each change, once it has been asked to."""
    if context.state.listens:
        for change in changes:
            context.send("outside", bytes(12) + PLAIN + f"{netns} {described(change)}".encode())


def described(change: Change) -> str:
    """In a few words."""
    match change:
        case LinkChange():
            return f"link {change.ifindex} {'up' if change.running else 'down'}"
        case NeighbourChange():
            return f"neighbour {change.address.hex()} {change.mac.hex()} {'gone' if change.gone else 'there'}"
        case RouteChange():
            return f"route {change.prefix[1]:x}/{change.prefix[2]} {'gone' if change.gone else 'there'}"
        case _:
            return type(change).__name__


def reload(context: Context) -> None:
    """Counts on."""
    context.state.reloads += 1


def plain(frame: bytes) -> bytes:
    """The frame with an EtherType that passes, behind a tag if there is one."""
    at = 16 if frame[12:14] == b"\x81\x00" else 12
    return frame[:at] + PLAIN + frame[at + 2 :]


def told(frame: bytes, packets: int, reloads: int) -> bytes:
    """The frame's head, then two numbers."""
    return frame[:12] + PLAIN + packets.to_bytes(4, "big") + reloads.to_bytes(4, "big")
