"""The name of a kernel feature in, whether this kernel has it out: always by trying, never by its version.

Names, as manifests list them: `program:xdp`, `program:xdp/devmap`, `program:sched_cls`,
`map:BPF_MAP_TYPE_HASH` (any map type), `helper:bpf_ktime_get_coarse_ns` (helpers of `HELPERS`), `redirect:broadcast`,
`link:xdp`, `link:tcx`. Answers are kept for the life of the process.
"""

from __future__ import annotations

import errno
import functools
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum

from schemas.diagnostic import Diagnostic, NotSupported

from . import sys
from .uapi import AttachType, MapFlag, MapType, ProgType, XdpFlag

HELPERS: Mapping[str, int] = {
    "bpf_skb_pull_data": 39,
    "bpf_redirect_map": 51,
    "bpf_jiffies64": 118,
    "bpf_ringbuf_output": 130,
    "bpf_ringbuf_reserve": 131,
    "bpf_ktime_get_coarse_ns": 160,
    "bpf_loop": 181,
    "bpf_xdp_load_bytes": 189,
}
"""enum bpf_func_id: helpers that a chain may call and an older kernel may lack."""

_PROGRAM_TYPES = {
    "xdp": (ProgType.BPF_PROG_TYPE_XDP, 0),
    "xdp/devmap": (ProgType.BPF_PROG_TYPE_XDP, AttachType.BPF_XDP_DEVMAP),
    "sched_cls": (ProgType.BPF_PROG_TYPE_SCHED_CLS, 0),
}
_RETURN_ZERO = bytes.fromhex("b700000000000000 9500000000000000")
_NO_DEVICE = 0x7FFFFFFF
_LOOPBACK = 1
_XDP_REDIRECT = 4
_CLOCK_MONOTONIC_COARSE = 6  # of linux/time.h; Python's time module has no name for it


class Capability(IntEnum):
    """CAP_*: the privileges that bpf(2) and attaching ask for (include/uapi/linux/capability.h)."""

    CAP_NET_ADMIN = 12
    CAP_SYS_ADMIN = 21
    CAP_PERFMON = 38
    CAP_BPF = 39


ENOUGH_PRIVILEGE = "run it as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON and a bpffs of its own"
"""CAP_PERFMON: without it the verifier takes no difference of two packet pointers, which is a packet's length."""


def has(feature: str) -> bool:
    """Whether this kernel has a feature. Raises `NotSupported` where the process may not even ask (L141)."""
    kind, _, name = feature.partition(":")
    probe = _PROBES.get(kind)
    if probe is None:
        raise NotSupported(feature, Diagnostic("L140", f"this version does not know the kernel feature `{feature}`"))
    return _probed(feature, probe, name)


@functools.cache
def _probed(feature: str, probe: Callable[[str], bool], name: str) -> bool:
    try:
        return probe(name)
    except sys.SyscallFailed as failure:
        if failure.errno == errno.EPERM:
            raise _not_allowed(feature, failure) from failure
        raise


def require(features: Iterable[str]) -> None:
    """Raises `NotSupported` (L140, L141) that names everything of `features` which is not there."""
    require_privilege()
    missing = [feature for feature in features if not has(feature)]
    if missing:
        raise NotSupported(missing[0], *(Diagnostic("L140", f"this kernel has no `{feature}`") for feature in missing))


def missing_privileges() -> tuple[str, ...]:
    """The capabilities that loading and attaching need and this thread lacks."""
    effective = _effective_capabilities()
    wanted = [Capability.CAP_NET_ADMIN]
    if not effective >> Capability.CAP_SYS_ADMIN & 1:  # which contains the two that were once split off from it
        wanted += [Capability.CAP_BPF, Capability.CAP_PERFMON]
    return tuple(capability.name for capability in wanted if not effective >> capability & 1)


def require_privilege() -> None:
    """Raises `NotSupported` (L141) that names the capabilities this process lacks."""
    missing = missing_privileges()
    if missing:
        raise NotSupported(
            "privilege",
            Diagnostic("L141", f"this needs the privilege {', '.join(missing)}", help=ENOUGH_PRIVILEGE),
        )


def _effective_capabilities() -> int:
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        line = next(line for line in file if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _not_allowed(feature: str, failure: sys.SyscallFailed) -> NotSupported:
    """The capabilities are there, as far as this process's user namespace says, and yet the kernel refuses."""
    notes = ("in a container, the privileges must be those of the host",)
    return NotSupported(
        "privilege", Diagnostic("L141", f"the kernel does not let us ask for `{feature}`: {failure}", notes=notes)
    )


def hz() -> int:
    """Jiffies a second: the coarse clock moves once a jiffy."""
    return round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))


# --- probes ---


def _program(name: str) -> bool:
    if name not in _PROGRAM_TYPES:
        return False
    prog_type, attach_type = _PROGRAM_TYPES[name]
    return _loads(prog_type, _RETURN_ZERO, attach_type)


def _loads(prog_type: int, insns: bytes, expected_attach_type: int = 0) -> bool:
    try:
        sys.prog_load(prog_type, insns, license="GPL", expected_attach_type=expected_attach_type).close()
    except sys.SyscallFailed as failure:
        if failure.errno in (errno.EINVAL, errno.EACCES, errno.E2BIG):
            return False
        raise
    return True


def _helper(name: str) -> bool:
    """A call without its arguments never verifies; what the log says of it tells a known helper from an unknown one."""
    if name not in HELPERS:
        return False
    prog_type, _ = _PROGRAM_TYPES["xdp" if name.startswith("bpf_xdp_") else "sched_cls"]
    log = sys.Log(size=4096)
    insns = struct.pack("<BBhi", 0x85, 0, 0, HELPERS[name]) + _RETURN_ZERO
    try:
        sys.prog_load(prog_type, insns, license="GPL", log=log).close()
    except sys.SyscallFailed as failure:
        if failure.errno not in (errno.EINVAL, errno.EACCES, errno.ENOSPC):
            raise
        return "invalid func" not in log.text and "unknown func" not in log.text
    return True


_MAP_SHAPES: Mapping[MapType, tuple[int, int, int, int]] = {
    # key size, value size, entries, flags: where 4, 4, 1, 0 will not do
    MapType.BPF_MAP_TYPE_LPM_TRIE: (8, 4, 1, MapFlag.BPF_F_NO_PREALLOC),
    MapType.BPF_MAP_TYPE_RINGBUF: (0, 0, 65536, 0),
    MapType.BPF_MAP_TYPE_USER_RINGBUF: (0, 0, 65536, 0),
    MapType.BPF_MAP_TYPE_QUEUE: (0, 4, 1, 0),
    MapType.BPF_MAP_TYPE_STACK: (0, 4, 1, 0),
    MapType.BPF_MAP_TYPE_BLOOM_FILTER: (0, 4, 1, 0),
    MapType.BPF_MAP_TYPE_STACK_TRACE: (4, 8, 1, 0),
}
_MAPS_OF_MAPS = (MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS, MapType.BPF_MAP_TYPE_HASH_OF_MAPS)


def _map(name: str) -> bool:
    if name not in MapType.__members__:
        return False
    map_type = MapType[name]
    if map_type in _MAPS_OF_MAPS:
        with sys.map_create(MapType.BPF_MAP_TYPE_ARRAY, key_size=4, value_size=4, max_entries=1) as inner:
            return _creates(map_type, inner)
    return _creates(map_type)


def _creates(map_type: MapType, inner: sys.AnyFd = 0) -> bool:
    key_size, value_size, max_entries, flags = _MAP_SHAPES.get(map_type, (4, 4, 1, 0))
    try:
        sys.map_create(
            map_type,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            map_flags=flags,
            inner_map_fd=inner,
        ).close()
    except sys.SyscallFailed as failure:
        if failure.errno in (errno.EINVAL, errno.E2BIG):
            return False
        raise
    return True


def _redirect(name: str) -> bool:
    """`bpf_redirect_map` answers XDP_ABORTED to flags that it does not know, and the flag's own action otherwise."""
    if name != "broadcast":
        return False
    broadcast = 1 << 3
    with sys.map_create(MapType.BPF_MAP_TYPE_DEVMAP, key_size=4, value_size=4, max_entries=1) as devmap:
        insns = b"".join(
            (
                struct.pack("<BBhiBBhi", 0x18, 0x11, 0, devmap.fileno(), 0, 0, 0, 0),  # r1 = devmap
                struct.pack("<BBhi", 0xB7, 2, 0, 0),  # r2 = 0
                struct.pack("<BBhi", 0xB7, 3, 0, broadcast),  # r3 = flags
                struct.pack("<BBhi", 0x85, 0, 0, HELPERS["bpf_redirect_map"]),
                struct.pack("<BBhi", 0x95, 0, 0, 0),
            )
        )
        try:
            program = sys.prog_load(ProgType.BPF_PROG_TYPE_XDP, insns, license="GPL")
        except sys.SyscallFailed as failure:
            if failure.errno in (errno.EINVAL, errno.EACCES):
                return False
            raise
        with program:
            return sys.prog_test_run(program, bytes(64)).retval == _XDP_REDIRECT


def _link(name: str) -> bool:
    match name:
        case "xdp":
            return _xdp_link()
        case "tcx":
            return _tcx_link()
        case _:
            return False


def _xdp_link() -> bool:
    """Offloading a program to the loopback device fails always: for want of the link (EINVAL), or of the hardware."""
    attach_type = AttachType.BPF_XDP
    with sys.prog_load(
        ProgType.BPF_PROG_TYPE_XDP, _RETURN_ZERO, license="GPL", expected_attach_type=attach_type
    ) as program:
        try:
            sys.link_create(program, _LOOPBACK, attach_type, XdpFlag.XDP_FLAGS_HW_MODE).close()
        except sys.SyscallFailed as failure:
            if failure.errno == errno.EPERM:
                raise
            return failure.errno in (errno.EOPNOTSUPP, errno.EBUSY, errno.EEXIST)
    return True


def _tcx_link() -> bool:
    """A kernel with TCX looks for the device (ENODEV), one without knows no such hook (EINVAL)."""
    try:
        sys.prog_query(_NO_DEVICE, AttachType.BPF_TCX_INGRESS)
    except sys.SyscallFailed as failure:
        if failure.errno == errno.EPERM:
            raise
        return failure.errno == errno.ENODEV
    return True


_PROBES: Mapping[str, Callable[[str], bool]] = {
    "program": _program,
    "map": _map,
    "helper": _helper,
    "redirect": _redirect,
    "link": _link,
}
