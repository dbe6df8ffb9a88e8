"""bpf(2), object info, namespaces and feature probes against the kernel that runs."""

from __future__ import annotations

import mmap
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2.netns import create, remove

from runtime import features, info, netns, sys
from runtime.uapi import MapFlag, MapType, ProgType, TestRunFlag
from schemas.diagnostic import LoadFailed, NotSupported

pytestmark = pytest.mark.kernel

RETURN_TWO = bytes.fromhex("b700000002000000 9500000000000000")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A named network namespace, made as `ip netns add` makes one: a bind mount of a thread's own."""
    name = f"bpfchain-test-{os.getpid()}-{threading.get_ident() % 10000}"
    create(name)
    yield name
    remove(name)


@pytest.mark.parametrize("map_type", [MapType.BPF_MAP_TYPE_HASH, MapType.BPF_MAP_TYPE_LRU_HASH])
def test_batches_and_single_entries_agree(map_type: MapType) -> None:
    entries = {struct.pack("<I", number): struct.pack("<Q", number * 3) for number in range(9000)}
    with sys.map_create(map_type, key_size=4, value_size=8, max_entries=30000) as fd:
        sys.map_update_batch(fd, list(entries), list(entries.values()))
        assert dict(sys.map_entries(fd, 4, 8)) == entries
        sys.map_delete_batch(fd, list(entries)[:100])
        assert sys.map_lookup_elem(fd, struct.pack("<I", 99), 8) is None
        assert sys.map_lookup_and_delete_elem(fd, struct.pack("<I", 100), 8) == struct.pack("<Q", 300)
        assert not sys.map_delete_elem(fd, struct.pack("<I", 100))
        assert len(dict(sys.map_entries(fd, 4, 8))) == 9000 - 101


def test_a_map_that_takes_no_entries_says_so() -> None:
    with sys.map_create(MapType.BPF_MAP_TYPE_HASH, key_size=4, value_size=8, max_entries=3) as fd:
        sys.map_freeze(fd)
        with pytest.raises(sys.SyscallFailed, match="EPERM"):
            sys.map_update_batch(fd, [bytes(4)], [bytes(8)])
        with pytest.raises(sys.SyscallFailed, match="EPERM"):
            sys.map_delete_batch(fd, [bytes(4)])


def test_a_type_without_batches_is_read_entry_by_entry() -> None:
    with (
        sys.map_create(MapType.BPF_MAP_TYPE_PROG_ARRAY, key_size=4, value_size=4, max_entries=3) as fd,
        sys.prog_load(ProgType.BPF_PROG_TYPE_XDP, RETURN_TWO, license="GPL") as program,
    ):
        sys.map_update_batch(fd, [bytes(4)], [program.fileno().to_bytes(4, "little")])
        assert dict(sys.map_entries(fd, 4, 4)) == {bytes(4): info.prog_info(program).id.to_bytes(4, "little")}


def test_per_cpu_values_have_a_slot_for_each_possible_cpu() -> None:
    size = sys.user_value_size(MapType.BPF_MAP_TYPE_PERCPU_ARRAY, 12)
    assert size == 16 * sys.possible_cpus()
    with sys.map_create(MapType.BPF_MAP_TYPE_PERCPU_ARRAY, key_size=4, value_size=12, max_entries=2) as fd:
        sys.map_update_elem(fd, bytes(4), bytes(range(1, 17)) * sys.possible_cpus())
        value = sys.map_lookup_elem(fd, bytes(4), size)
        assert value is not None
        assert value[:12] == bytes(range(1, 13))


def test_a_map_can_be_shared_as_memory() -> None:
    flags = MapFlag.BPF_F_MMAPABLE
    with sys.map_create(2, key_size=4, value_size=4096, max_entries=1, map_flags=flags) as fd:
        with mmap.mmap(fd.fileno(), 4096) as memory:
            memory[:4] = b"here"
        value = sys.map_lookup_elem(fd, bytes(4), 4096)
        assert value is not None
        assert value[:4] == b"here"


def test_ids_lead_to_what_was_made() -> None:
    with (
        sys.map_create(1, key_size=4, value_size=8, max_entries=5, map_name="br0__fdb/x") as map_fd,
        sys.prog_load(ProgType.BPF_PROG_TYPE_XDP, RETURN_TWO, license="GPL", prog_name="two") as program,
    ):
        sys.prog_bind_map(program, map_fd)
        found = info.prog_info(program)
        assert found.name == "two"
        assert found.map_ids == (info.map_info(map_fd).id,)
        assert found.id in {each.id for each in info.progs()}
        with info.map_by_id(found.map_ids[0]) as again:
            assert info.map_info(again) == info.map_info(map_fd)
            assert info.map_info(again).name == "br0__fdb_x"
    with pytest.raises(sys.SyscallFailed, match=r"BPF_PROG_GET_FD_BY_ID: .* \(ENOENT\)"):
        info.prog_by_id(found.id)


def test_statistics_count_while_they_are_on() -> None:
    with sys.prog_load(ProgType.BPF_PROG_TYPE_XDP, RETURN_TWO, license="GPL") as program, sys.enable_stats():
        sys.prog_test_run(program, bytes(64), repeat=100, flags=TestRunFlag(0))
        assert info.prog_info(program).run_count == 100


def test_only_the_calling_thread_enters_a_namespace_and_comes_back(namespace: str) -> None:
    def current() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    here = current()
    enter, seen = threading.Barrier(2, timeout=10), []

    def stay() -> None:
        enter.wait()
        seen.append(current())

    bystander = threading.Thread(target=stay)
    bystander.start()
    with netns.entered(namespace):
        enter.wait()
        bystander.join()
        assert seen == [here]
        assert current() == os.stat(f"/run/netns/{namespace}").st_ino
        assert socket.if_nameindex() == [(1, "lo")]
        with netns.entered(None):
            assert current() != here
    assert current() == here
    with pytest.raises(RuntimeError, match="inside"), netns.entered(namespace):
        raise RuntimeError("inside")
    assert current() == here


def test_an_unknown_namespace_is_refused() -> None:
    with pytest.raises(LoadFailed, match="L150: there is no network namespace `no-such-namespace`"):
        netns.open_netns("no-such-namespace")
    with pytest.raises(LoadFailed, match=r"L150: `\.\./etc` is not a name"):
        netns.open_netns("../etc")


def test_what_is_no_namespace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stray").touch()
    monkeypatch.setattr(netns, "NETNS_DIRECTORY", tmp_path)
    with pytest.raises(LoadFailed, match="L151: cannot enter network namespace `stray`: it is not one"):
        netns.entered("stray").__enter__()


@pytest.mark.parametrize(
    "feature",
    [
        "program:xdp",
        "program:xdp/devmap",
        "program:sched_cls",
        "map:BPF_MAP_TYPE_LPM_TRIE",
        "map:BPF_MAP_TYPE_HASH_OF_MAPS",
        "map:BPF_MAP_TYPE_RINGBUF",
        "helper:bpf_ktime_get_coarse_ns",
        "redirect:broadcast",
        "link:xdp",
        "link:tcx",
    ],
)
def test_this_kernel_has_what_chains_need(feature: str) -> None:
    assert features.has(feature)


def test_probing_attaches_nothing() -> None:
    before = list(info.links())
    features._xdp_link()
    features._tcx_link()
    assert list(info.links()) == before


def test_an_unknown_helper_is_told_from_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "HELPERS", {"none": 60000})
    assert not features._helper("none")


def test_jiffies_a_second_are_those_of_the_kernel() -> None:
    assert features.hz() in (100, 250, 300, 1000)


def test_everything_that_is_missing_is_named() -> None:
    with pytest.raises(NotSupported) as failed:
        features.require(["program:xdp", "map:BPF_MAP_TYPE_NEVER", "link:never"])
    assert [diagnostic.message for diagnostic in failed.value.diagnostics] == [
        "this kernel has no `map:BPF_MAP_TYPE_NEVER`",
        "this kernel has no `link:never`",
    ]


def test_bpffs_is_mounted_pinned_into_and_unmounted(tmp_path: Path) -> None:
    sys.mount("bpf", str(tmp_path), "bpf")
    try:
        with sys.map_create(2, key_size=4, value_size=4, max_entries=1) as fd:
            sys.obj_pin(fd, tmp_path / "pinned")
            with sys.obj_get(tmp_path / "pinned") as again:
                assert info.map_info(again) == info.map_info(fd)
            with pytest.raises(sys.SyscallFailed, match=r"BPF_OBJ_GET .*/absent: .* \(ENOENT\)"):
                sys.obj_get(tmp_path / "absent")
    finally:
        sys.umount(str(tmp_path))
