"""Slots of a manifest in, filled prog arrays and devmaps out, each slot read back and compared.

A prog array must be full before the first packet comes, and something must hold it from then on: the kernel empties it
when its last descriptor or pin goes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import DeviceSlotRecord, Manifest, TailSlotRecord

from . import sys
from .devices import Device
from .info import prog_info
from .netns import entered
from .uapi import MapType

_DEVMAP_VALUE = struct.Struct("<Ii")  # struct bpf_devmap_val: ifindex; fd of an egress program in, its id out
_INDEX = struct.Struct("<I")
_NO_PROGRAM = 0  # as the kernel counts: a descriptor of 0 is none here


def fill(
    manifest: Manifest, maps: Mapping[str, sys.Fd], programs: Mapping[str, sys.Fd], devices: Mapping[str, Device]
) -> None:
    """Fills every slot of a generation and checks it. Raises `LoadFailed` (A106)."""
    for tail in manifest.tail_slots:
        _fill_tail(tail, maps[tail.map], programs[tail.program])
    for slot in manifest.device_slots:
        _fill_device(slot, maps[slot.map], devices[slot.device], programs[slot.program] if slot.program else None)
    for tail in manifest.tail_slots:
        _check(tail.map, tail.index, prog_info(programs[tail.program]).id, _tail(maps[tail.map], tail.index))
    for slot in manifest.device_slots:
        egress = prog_info(programs[slot.program]).id if slot.program else 0
        found = _device_entry(maps[slot.map], slot.index)
        _check(slot.map, slot.index, devices[slot.device].ifindex, found[0])
        _check(slot.map, slot.index, egress, found[1])


def device_slot(devmap: sys.AnyFd, index: int) -> int:
    """The ifindex in a slot of a devmap; 0 where it is empty, because its device has gone."""
    return _device_entry(devmap, index)[0]


def _device_entry(devmap: sys.AnyFd, index: int) -> tuple[int, int]:
    """(ifindex, id of the egress program) of a slot; 0 where there is none."""
    value = sys.map_lookup_elem(devmap, _INDEX.pack(index), _DEVMAP_VALUE.size)
    ifindex, prog_id = (0, 0) if value is None else _DEVMAP_VALUE.unpack(value)
    return int(ifindex), int(prog_id)


def settle() -> None:
    """Returns when no CPU is any more inside a program that it was in before.

    An update of a map of maps waits for that, so that whoever replaced an inner map may free what it meant (kernel
    commit 1ae80cf31938, 4.20). The old generation's prog arrays may only go when its last packet is through.
    """
    array, nested = MapType.BPF_MAP_TYPE_ARRAY, MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS
    with (
        sys.map_create(array, key_size=4, value_size=4, max_entries=1) as inner,
        sys.map_create(nested, key_size=4, value_size=4, max_entries=1, inner_map_fd=inner) as outer,
    ):
        sys.map_update_elem(outer, _INDEX.pack(0), _INDEX.pack(inner.fileno()))


def _tail(prog_array: sys.Fd, index: int) -> int:
    """The id of the program in a slot of a prog array."""
    value = sys.map_lookup_elem(prog_array, _INDEX.pack(index), _INDEX.size)
    return 0 if value is None else int(_INDEX.unpack(value)[0])


def _fill_tail(slot: TailSlotRecord, prog_array: sys.Fd, program: sys.Fd) -> None:
    try:
        sys.map_update_elem(prog_array, _INDEX.pack(slot.index), _INDEX.pack(program.fileno()))
    except sys.SyscallFailed as failure:
        message = f"program `{slot.program}` does not go into slot {slot.index} of prog array `{slot.map}`: {failure}"
        note = "a prog array takes one program type and one expected_attach_type (kernel commit 4540aed51b12)"
        raise LoadFailed(Diagnostic("A106", message, notes=(note,))) from failure


def _fill_device(slot: DeviceSlotRecord, devmap: sys.Fd, device: Device, egress: sys.Fd | None) -> None:
    """The kernel looks an ifindex up in the namespace of whoever writes it, so this is done from inside."""
    value = _DEVMAP_VALUE.pack(device.ifindex, egress.fileno() if egress else _NO_PROGRAM)
    try:
        with entered(device.netns):
            sys.map_update_elem(devmap, _INDEX.pack(slot.index), value)
    except sys.SyscallFailed as failure:
        message = f"device `{device.name}` does not go into slot {slot.index} of devmap `{slot.map}`: {failure}"
        raise LoadFailed(Diagnostic("A106", message)) from failure


def _check(map_name: str, index: int, wanted: int, found: int) -> None:
    if wanted != found:
        message = f"slot {index} of `{map_name}` holds {found or 'nothing'} instead of {wanted}"
        raise LoadFailed(Diagnostic("A106", message, help="did a device go away just now? try again"))
