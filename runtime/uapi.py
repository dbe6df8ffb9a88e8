"""Numbers and names of the kernel's BPF interface (include/uapi/linux/bpf.h, if_link.h), spelled as there; no code."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Cmd(IntEnum):
    """enum bpf_cmd: the commands of bpf(2)."""

    BPF_MAP_CREATE = 0
    BPF_MAP_LOOKUP_ELEM = 1
    BPF_MAP_UPDATE_ELEM = 2
    BPF_MAP_DELETE_ELEM = 3
    BPF_MAP_GET_NEXT_KEY = 4
    BPF_PROG_LOAD = 5
    BPF_OBJ_PIN = 6
    BPF_OBJ_GET = 7
    BPF_PROG_ATTACH = 8
    BPF_PROG_DETACH = 9
    BPF_PROG_TEST_RUN = 10
    BPF_PROG_GET_NEXT_ID = 11
    BPF_MAP_GET_NEXT_ID = 12
    BPF_PROG_GET_FD_BY_ID = 13
    BPF_MAP_GET_FD_BY_ID = 14
    BPF_OBJ_GET_INFO_BY_FD = 15
    BPF_PROG_QUERY = 16
    BPF_BTF_LOAD = 18
    BPF_BTF_GET_FD_BY_ID = 19
    BPF_MAP_LOOKUP_AND_DELETE_ELEM = 21
    BPF_MAP_FREEZE = 22
    BPF_BTF_GET_NEXT_ID = 23
    BPF_MAP_LOOKUP_BATCH = 24
    BPF_MAP_LOOKUP_AND_DELETE_BATCH = 25
    BPF_MAP_UPDATE_BATCH = 26
    BPF_MAP_DELETE_BATCH = 27
    BPF_LINK_CREATE = 28
    BPF_LINK_UPDATE = 29
    BPF_LINK_GET_FD_BY_ID = 30
    BPF_LINK_GET_NEXT_ID = 31
    BPF_ENABLE_STATS = 32
    BPF_LINK_DETACH = 34
    BPF_PROG_BIND_MAP = 35


class MapType(IntEnum):
    """enum bpf_map_type."""

    BPF_MAP_TYPE_HASH = 1
    BPF_MAP_TYPE_ARRAY = 2
    BPF_MAP_TYPE_PROG_ARRAY = 3
    BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4
    BPF_MAP_TYPE_PERCPU_HASH = 5
    BPF_MAP_TYPE_PERCPU_ARRAY = 6
    BPF_MAP_TYPE_STACK_TRACE = 7
    BPF_MAP_TYPE_CGROUP_ARRAY = 8
    BPF_MAP_TYPE_LRU_HASH = 9
    BPF_MAP_TYPE_LRU_PERCPU_HASH = 10
    BPF_MAP_TYPE_LPM_TRIE = 11
    BPF_MAP_TYPE_ARRAY_OF_MAPS = 12
    BPF_MAP_TYPE_HASH_OF_MAPS = 13
    BPF_MAP_TYPE_DEVMAP = 14
    BPF_MAP_TYPE_SOCKMAP = 15
    BPF_MAP_TYPE_CPUMAP = 16
    BPF_MAP_TYPE_XSKMAP = 17
    BPF_MAP_TYPE_SOCKHASH = 18
    BPF_MAP_TYPE_REUSEPORT_SOCKARRAY = 20
    BPF_MAP_TYPE_QUEUE = 22
    BPF_MAP_TYPE_STACK = 23
    BPF_MAP_TYPE_SK_STORAGE = 24
    BPF_MAP_TYPE_DEVMAP_HASH = 25
    BPF_MAP_TYPE_STRUCT_OPS = 26
    BPF_MAP_TYPE_RINGBUF = 27
    BPF_MAP_TYPE_INODE_STORAGE = 28
    BPF_MAP_TYPE_TASK_STORAGE = 29
    BPF_MAP_TYPE_BLOOM_FILTER = 30
    BPF_MAP_TYPE_USER_RINGBUF = 31
    BPF_MAP_TYPE_CGRP_STORAGE = 32
    BPF_MAP_TYPE_ARENA = 33


PER_CPU_MAP_TYPES = frozenset(
    {MapType.BPF_MAP_TYPE_PERCPU_HASH, MapType.BPF_MAP_TYPE_PERCPU_ARRAY, MapType.BPF_MAP_TYPE_LRU_PERCPU_HASH}
)
"""A value of these, as user space sees it, is one slot for each possible CPU, each rounded up to 8 bytes."""

MAP_IN_MAP_TYPES = frozenset({MapType.BPF_MAP_TYPE_ARRAY_OF_MAPS, MapType.BPF_MAP_TYPE_HASH_OF_MAPS})


class ProgType(IntEnum):
    """enum bpf_prog_type, as far as a chain or its neighbours on a hook use it."""

    BPF_PROG_TYPE_SOCKET_FILTER = 1
    BPF_PROG_TYPE_SCHED_CLS = 3
    BPF_PROG_TYPE_SCHED_ACT = 4
    BPF_PROG_TYPE_XDP = 6


class AttachType(IntEnum):
    """enum bpf_attach_type, as far as a chain uses it."""

    BPF_XDP_DEVMAP = 33
    BPF_XDP_CPUMAP = 35
    BPF_XDP = 37
    BPF_TCX_INGRESS = 46
    BPF_TCX_EGRESS = 47


class LinkType(IntEnum):
    """enum bpf_link_type, as far as a chain uses it."""

    BPF_LINK_TYPE_XDP = 6
    BPF_LINK_TYPE_TCX = 11


class MapFlag(IntFlag):
    """map_flags of BPF_MAP_CREATE."""

    BPF_F_NO_PREALLOC = 1 << 0
    BPF_F_NO_COMMON_LRU = 1 << 1
    BPF_F_NUMA_NODE = 1 << 2
    BPF_F_RDONLY = 1 << 3
    BPF_F_WRONLY = 1 << 4
    BPF_F_RDONLY_PROG = 1 << 7
    BPF_F_WRONLY_PROG = 1 << 8
    BPF_F_MMAPABLE = 1 << 10
    BPF_F_INNER_MAP = 1 << 12


class ElemFlag(IntFlag):
    """flags of BPF_MAP_UPDATE_ELEM."""

    BPF_ANY = 0
    BPF_NOEXIST = 1
    BPF_EXIST = 2
    BPF_F_LOCK = 4


class ProgFlag(IntFlag):
    """prog_flags of BPF_PROG_LOAD."""

    BPF_F_XDP_HAS_FRAGS = 1 << 5


class AttachFlag(IntFlag):
    """flags of BPF_LINK_CREATE on TCX and of BPF_LINK_UPDATE."""

    BPF_F_REPLACE = 1 << 2
    BPF_F_BEFORE = 1 << 3
    BPF_F_AFTER = 1 << 4
    BPF_F_ID = 1 << 5
    BPF_F_LINK = 1 << 13


class XdpFlag(IntFlag):
    """flags of BPF_LINK_CREATE on XDP, and of netlink's IFLA_XDP_FLAGS."""

    XDP_FLAGS_UPDATE_IF_NOEXIST = 1 << 0
    XDP_FLAGS_SKB_MODE = 1 << 1
    XDP_FLAGS_DRV_MODE = 1 << 2
    XDP_FLAGS_HW_MODE = 1 << 3
    XDP_FLAGS_REPLACE = 1 << 4


class TestRunFlag(IntFlag):
    """flags of BPF_PROG_TEST_RUN."""

    __test__ = False  # pytest: not a test class

    BPF_F_TEST_RUN_ON_CPU = 1 << 0
    BPF_F_TEST_XDP_LIVE_FRAMES = 1 << 1


class PseudoSource(IntEnum):
    """src_reg of a 64-bit immediate load or a call: what `imm` means before the kernel rewrites it."""

    BPF_PSEUDO_CALL = 1  # of a call
    BPF_PSEUDO_MAP_FD = 1  # of a 64-bit load: the UAPI gives both the number 1
    BPF_PSEUDO_MAP_VALUE = 2
    BPF_PSEUDO_BTF_ID = 3
    BPF_PSEUDO_FUNC = 4
    BPF_PSEUDO_MAP_IDX = 5
    BPF_PSEUDO_MAP_IDX_VALUE = 6


BPF_OBJ_NAME_LEN = 16
"""Bytes of a program's or map's name in the kernel, its terminating zero included."""

BPF_STATS_RUN_TIME = 0
BPF_ENOTSUPP = 524
"""The kernel-internal ENOTSUPP, which some map types answer to batch commands with."""
