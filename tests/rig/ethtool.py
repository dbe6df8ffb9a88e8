"""Offloads of a device on or off, by the ioctl that `ethtool -K` makes; also as a command of that name."""

from __future__ import annotations

import array
import fcntl
import shutil
import socket
import struct
import sys
from enum import IntEnum
from pathlib import Path

from runtime.netns import entered

_SIOCETHTOOL = 0x8946
_IFREQ_SIZE = 40


class Feature(IntEnum):
    """Commands of linux/ethtool.h that set one feature."""

    TX_CHECKSUM = 0x17  # ETHTOOL_STXCSUM
    TSO = 0x1F  # ETHTOOL_STSO
    GSO = 0x24  # ETHTOOL_SGSO
    GRO = 0x2C  # ETHTOOL_SGRO


class Flag(IntEnum):
    """Bits of ETHTOOL_SFLAGS (enum ethtool_flags)."""

    TXVLAN = 1 << 7
    RXVLAN = 1 << 8


_NAMES = {"tx": Feature.TX_CHECKSUM, "tso": Feature.TSO, "gso": Feature.GSO, "gro": Feature.GRO}
_FLAGS = {"txvlan": Flag.TXVLAN, "rxvlan": Flag.RXVLAN}
_GFLAGS, _SFLAGS = 0x25, 0x26


def set_feature(netns: str | None, device: str, feature: Feature, *, on: bool) -> None:
    """Switches one feature of a device in the namespace called `netns`."""
    with entered(netns):
        _ethtool(device, feature, int(on))


def set_flag(device: str, flag: Flag, *, on: bool) -> None:
    """Switches one flag of a device in the namespace that this thread is in."""
    before = _ethtool(device, _GFLAGS, 0)
    _ethtool(device, _SFLAGS, before | flag if on else before & ~flag)


def _ethtool(device: str, command: int, number: int) -> int:
    value = array.array("I", [command, number])  # struct ethtool_value
    address, _ = value.buffer_info()
    request = struct.pack("16sQ", device.encode(), address).ljust(_IFREQ_SIZE, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
    return value[1]


def provide_ethtool(folder: Path) -> None:
    """Puts an `ethtool` into a folder for the PATH: the machine's own, or this module with what `-K` takes of it."""
    command, there = folder / "ethtool", shutil.which("ethtool")
    root = Path(__file__).parents[2]
    ours = f'PYTHONPATH="{root}" exec "{sys.executable}" -m tests.rig.ethtool "$@"'
    command.write_text("#!/bin/sh\n" + (f'exec "{there}" "$@"\n' if there else f"{ours}\n"))
    command.chmod(0o755)


def main(option: str, device: str, *changes: str) -> None:
    """`ethtool -K DEVICE FEATURE on|off …`."""
    assert option == "-K", "only -K is here"
    for name, state in zip(changes[::2], changes[1::2], strict=True):
        if name in _FLAGS:
            set_flag(device, _FLAGS[name], on=state == "on")
        else:
            set_feature(None, device, _NAMES[name], on=state == "on")


if __name__ == "__main__":
    main(*sys.argv[1:])
