"""Offloads of a device on or off, by the ioctl that `ethtool -K` makes."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from enum import IntEnum

from runtime.netns import entered

_SIOCETHTOOL = 0x8946
_IFREQ_SIZE = 40


class Feature(IntEnum):
    """Commands of linux/ethtool.h that set one feature."""

    TX_CHECKSUM = 0x17  # ETHTOOL_STXCSUM
    TSO = 0x1F  # ETHTOOL_STSO
    GSO = 0x24  # ETHTOOL_SGSO
    GRO = 0x2C  # ETHTOOL_SGRO


def set_feature(netns: str, device: str, feature: Feature, *, on: bool) -> None:
    """Switches one feature of a device in the namespace called `netns`."""
    value = array.array("I", [feature, int(on)])  # struct ethtool_value
    address, _ = value.buffer_info()
    request = struct.pack("16sQ", device.encode(), address).ljust(_IFREQ_SIZE, b"\0")
    with entered(netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
