"""How late a burst of kernel routes is in the data plane: routes come and go in the kernel, the daemon follows them.

Run as root: `python -m bench.follow`. `ip -batch` changes routes one by one, as routing daemons do, and each is
acknowledged; when it ends, the kernel has the last one. The lag is from then until the programs' own tables have what
was changed last and what was changed here and there. The daemon is a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from runtime import sys as kernel
from runtime.bpffs import bpffs_root
from runtime.netns import entered
from runtime.state import read
from tests.rig.daemon import daemon, own_bpffs
from tests.rig.fib import TableReader
from tests.rig.network import Network, network, running
from tests.rig.routes import internet

from .fib import BITS, tell, words_of

PATIENCE = 60.0
POLL_SECONDS = 0.001
PROBES = 200
GATEWAYS = {4: ("10.7.1.10", "10.7.2.20"), 6: ("fd00:1::10", "fd00:2::20")}
ADDRESSES = {"left": ("10.7.1.1/24", "fd00:1::1/64"), "right": ("10.7.2.1/24", "fd00:2::1/64")}

Prefix = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Burst:
    """Seconds that the kernel was busy with it, how much later the data plane had it all, CPU time of the daemon."""

    kernel_seconds: float
    lag_seconds: float
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A router that follows the main table of a namespace, the process of its daemon, its tables by IP version."""

    netns: str
    pid: int
    tables: Mapping[int, TableReader]

    def change(self, verb: str, prefixes: Sequence[Prefix]) -> Burst:
        """`ip route VERB` for each prefix: `add`, or `del`."""
        with tempfile.NamedTemporaryFile("w", prefix="bpfchain-bench-", suffix=".batch") as file:
            file.writelines(f"route {verb} {_described(number, each)}\n" for number, each in enumerate(prefixes))
            file.flush()
            cpu, started = self._cpu_seconds(), time.perf_counter()
            with entered(self.netns):
                subprocess.run(["ip", "-batch", file.name], check=True)  # noqa: S603, S607  # ours
        ended = time.perf_counter()
        probes = [*random.Random(1).sample(prefixes, min(PROBES, len(prefixes))), prefixes[-1]]  # noqa: S311
        while not all(self._has(probe) is (verb == "add") for probe in reversed(probes)):
            if time.perf_counter() > ended + PATIENCE:
                raise TimeoutError("the data plane does not follow")
            time.sleep(POLL_SECONDS)
        return Burst(ended - started, time.perf_counter() - ended, self._cpu_seconds() - cpu)

    def _has(self, prefix: Prefix) -> bool:
        return bool(self.tables[prefix.version].lookup(int(prefix.network_address)))

    def _cpu_seconds(self) -> float:
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    """Measures and prints one line for each burst."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sizes", type=int, nargs="+", default=[5_000, 50_000])
    arguments.add_argument("--versions", type=int, nargs="+", default=[4, 6])
    options = arguments.parse_args()
    tell(f"{'burst':>28} {'kernel, s':>10} {'lag, ms':>8} {'daemon, us a route':>19}")
    for version in options.versions:
        for size in options.sizes:
            for name, routes, found in measure(version, size):
                us = found.cpu_seconds / routes * 1e6
                label = f"IPv{version} {name} {routes}"
                tell(f"{label:>28} {found.kernel_seconds:10.2f} {found.lag_seconds * 1e3:8.0f} {us:19.1f}")


def measure(version: int, size: int) -> Iterator[tuple[str, int, Burst]]:
    """Routes of one region in order, then some of everywhere; each time half of them go."""
    with following(size) as standing:
        for name, prefixes in (("in order", in_order(version, size)), ("random", scattered(version, size))):
            yield f"{name}, add", size, standing.change("add", prefixes)
            half = prefixes[: size // 2]
            yield f"{name}, delete", len(half), standing.change("del", half)
            standing.change("del", prefixes[size // 2 :])


def in_order(version: int, count: int) -> Sequence[Prefix]:
    """Prefixes one after the other, as somebody hands out his own."""
    if version == 4:
        return [IPv4Network((20 << 24 | number << 8, 24)) for number in range(count)]
    return [IPv6Network((0x2001 << 112 | number << 80, 48)) for number in range(count)]


def scattered(version: int, count: int) -> Sequence[Prefix]:
    """The prefixes of a full table that have its commonest length, so that none is in another one; as many as asked."""
    length = {4: 24, 6: 48}[version]
    many = internet(random.Random(count), 3 * count, BITS[version])  # noqa: S311  # the same each time
    found = [address for address, of_length in many if of_length == length]
    if version == 4:
        return [IPv4Network((address, length)) for address in found if _is_unicast(address)][:count]
    return [IPv6Network((address, length)) for address in found][:count]


def _is_unicast(address: int) -> bool:
    first = address >> 24
    return 11 <= first < 224 and first != 127


def _described(number: int, prefix: Prefix) -> str:
    return f"{prefix} via {GATEWAYS[prefix.version][number & 1]}"


@contextlib.contextmanager
def following(size: int) -> Iterator[Standing]:
    """A router with room for so many routes, its daemon beside it; the kernel has its addresses."""
    chain = {
        "mode": "native",
        "interfaces": {port: {"device": port} for port in ADDRESSES},
        "services": {
            "gw": {
                "kind": "router",
                "ports": {port: {"address": [*addresses]} for port, addresses in ADDRESSES.items()},
                "kernel-routes": {"table": "main", "size": size},
            }
        },
        "links": [["left", "gw.left"], ["gw.right", "right"]],
    }
    with (
        tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as name,
        own_bpffs(Path(name)),
        daemon(Path(name)) as process,
        network(*ADDRESSES) as net,
    ):
        _address(net)
        with running(net.dut, chain, Path(name)) as compiled:
            process.wait_for(compiled.manifest.chain, "gw", "running")
            tables = {version: _table(compiled.manifest.chain, version) for version in (4, 6)}
            yield Standing(net.dut.name, process.pid, tables)


def _address(net: Network) -> None:
    """The kernel's own addresses, without which it takes no routes to gateways."""
    for port, addresses in ADDRESSES.items():
        net.dut.sysctl(f"net/ipv6/conf/{port}/disable_ipv6", "0")
        with net.dut.netlink() as netlink:
            for address, _, length in (each.partition("/") for each in addresses):
                netlink.addr("add", index=net.cables[port].port.ifindex, address=address, prefixlen=int(length))


def _table(chain: str, version: int) -> TableReader:
    """A table of the running router, where its programs read it."""
    live = read(bpffs_root(), chain)
    assert live
    assert live.current
    assert live.current.record
    pins, manifest = live.current.pins, live.current.record.manifest

    def words(name: str, kind: Literal["I", "Q"]) -> memoryview:
        record = next(found for found in manifest.maps if found.name == f"gw__{name}{version}")
        with kernel.obj_get(pins.map(record.name, record.layout)) as map_fd:
            return words_of(map_fd, kind)

    return TableReader(BITS[version], words("roots", "Q"), words("ranges", "I" if version == 4 else "Q"))


if __name__ == "__main__":
    main()
