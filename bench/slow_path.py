"""`python -m bench.slow_path`: how many packets a second go up to the daemon, and up, through it, and down again.

The generator floods one lane whose chain sends every packet up; the daemon is a process of its own, on whatever CPU is
free. A control plane that only counts gives the upcall rate; one that sends each packet on gives the round trip: out of
the interface, or into a port of the chain, from where a program forwards it.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen
from time import monotonic, perf_counter_ns, sleep

import yaml

import bpfchain
from runtime.bpffs import bpffs_root
from runtime.control import Context, ControlPlane, Packet, control_plane
from runtime.daemon import Daemon
from runtime.daemon_socket import daemon_status
from runtime.log import Log
from runtime.netns import entered
from schemas.counters import Count
from schemas.manifest import Mode
from tests.rig import probe
from tests.rig.daemon import own_bpffs
from tests.rig.frames import Wire
from tests.rig.lab import unique_name

from .cases import ONE_FLOW
from .rig import Lane, Rig

_SECONDS = 1.5
_SLICE = 4096
_ALONE = 20
_READY_SECONDS = 10.0
_QUIET_SECONDS = 0.1


class Counting:
    """Takes packets and does nothing with them."""

    @staticmethod
    def on_packets(_context: Context, _packets: Sequence[Packet]) -> None:
        """Nothing."""


class Sending:
    """Sends each packet out of the other port, as it is."""

    @staticmethod
    def on_packets(context: Context, packets: Sequence[Packet]) -> None:
        """Out of the interface `out`."""
        context.send_many("inside", [packet.frame for packet in packets])


class Injecting:
    """Lets each packet arrive once more, marked so that it passes."""

    @staticmethod
    def on_packets(context: Context, packets: Sequence[Packet]) -> None:
        """Into the port that it came from."""
        frames = [packet.frame[:12] + b"\x88\xb5" + packet.frame[14:] for packet in packets]
        context.inject_many("outside", frames)


PLANES: dict[str, type] = {"up": Counting, "up, out": Sending, "up, in": Injecting}
ROUND_TRIP = ("up, out", Mode.NATIVE)
"""The way and the mode that stand for all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What one control plane reached: packets a second that it got and that came out, median µs of a packet alone.

    `daemon_us` is CPU time of the daemon a packet, with what the network does in its system calls: on a machine that
    does other things as well it says more than the rates do.
    """

    way: str
    mode: str
    up_mpps: float
    out_mpps: float
    daemon_us: float
    alone_us: float | None
    refused: float

    def record(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        alone = f"{self.alone_us:8.0f}" if self.alone_us is not None else "       –"
        rates = f"{self.up_mpps:8.3f} {self.out_mpps:8.3f} {self.daemon_us:9.2f}"
        return f"{self.way:<10} {self.mode:<8} {rates} {alone} {self.refused:9.1%}"


HEAD = f"{'way':<10} {'mode':<8} {'up Mpps':>8} {'out Mpps':>8} {'daemon µs':>9} {'alone µs':>8} {'refused':>9}"


def main() -> None:
    """The table, row by row."""
    sys.stdout.write(f"{HEAD}\n")
    for mode in Mode:
        for way in PLANES:
            sys.stdout.write(f"{measure(way, mode)}\n")
            sys.stdout.flush()


def figures() -> list[Figure]:
    """All rows."""
    return [measure(way, mode) for mode in Mode for way in PLANES]


def table(found: Sequence[Figure]) -> str:
    """Lines of text."""
    return "".join(f"{line}\n" for line in (HEAD, *map(str, found)))


def measure(way: str, mode: Mode) -> Figure:
    """One row: a flood for some seconds, then packets one by one."""
    with tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder, Rig() as rig, probe.installed():
        lane = rig.lane()
        with (
            own_bpffs(Path(folder)),
            _running(lane, mode, Path(folder)) as chain,
            _daemon(way, chain, Path(folder)) as pid,
        ):
            with rig.generator(ONE_FLOW) as generator:
                before, arrived, started = _upcalls(lane, chain), rig.arrived().packets, monotonic()
                cpu_before = _cpu_us(pid)
                while monotonic() < started + _SECONDS:
                    generator.send(lane, _SLICE, lane.station)
                _until_quiet(rig)
                took = monotonic() - started - _QUIET_SECONDS
                cpu_us = _cpu_us(pid) - cpu_before
                after, left = _upcalls(lane, chain), rig.arrived().packets - arrived
            sent = after["sent up"] - before["sent up"]
            refused = sum(after.values()) - sum(before.values()) - sent
            alone = _alone(rig, lane) if way != "up" else None
            return Figure(
                way,
                str(mode),
                sent / took / 1e6,
                left / took / 1e6,
                cpu_us / max(1, sent),
                alone,
                refused / max(1, sent + refused),
            )


def _upcalls(lane: Lane, chain: str) -> dict[str, int]:
    """How many packets went up so far, and how many were refused."""
    with entered(lane.dut.name):
        counts = bpfchain.status(chain).service("probe").labelled
    none = Count()
    return {
        fate: counts.get(f"slow-path calm {fate}", none).packets
        for fate in ("sent up", "refused: rate", "refused: ring full")
    }


def _until_quiet(rig: Rig) -> None:
    """Waits until the daemon has dealt with what waits in the ring, and nothing arrives any more."""
    before = -1
    while (now := rig.arrived().packets) != before:
        before = now
        sleep(_QUIET_SECONDS)


def _cpu_us(pid: int) -> float:
    """CPU time that a process has had."""
    fields = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(fields[0]) / 1000


def _alone(rig: Rig, lane: Lane) -> float:
    """Median µs from sending a frame until the sink has counted it, which is looked for every few µs."""
    frame = lane.station + lane.entry.station.mac_bytes + b"\x08\x00" + bytes(46)
    times = []
    with Wire(lane.entry.station) as wire:
        for _ in range(_ALONE):
            sleep(0.05)  # longer than the daemon looks for more by itself
            before, started = rig.arrived().packets, perf_counter_ns()
            wire.send(frame)
            while rig.arrived().packets == before and perf_counter_ns() < started + 10**9:
                pass
            times.append((perf_counter_ns() - started) / 1000)
    return statistics.median(times)


@contextmanager
def _running(lane: Lane, mode: Mode, folder: Path) -> Iterator[str]:
    """The chain, applied on the lane's machine."""
    name = unique_name("bench")
    source = {
        "chain": name,
        "mode": mode.value,
        "slow-path": {"rate": 10_000_000},
        "interfaces": {"in": {"device": "in"}, "out": {"device": "out"}},
        "services": {"probe": {"kind": "probe", "all": 0}},
        "links": [["in", "probe.outside"], ["probe.inside", "out"]],
    }
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump(source))
    with entered(lane.dut.name):
        bpfchain.apply(bpfchain.compile(file))
    try:
        yield name
    finally:
        bpfchain.detach(name)


@contextmanager
def _daemon(way: str, chain: str, folder: Path) -> Iterator[int]:
    """The daemon's process id; with one of the control planes here in the place of the probe's."""
    log = folder / "daemon.log"
    with log.open("w") as errors:
        process = Popen([sys.executable, "-m", "bench.slow_path", "--serve", way], stderr=errors)  # noqa: S603
    try:
        deadline = monotonic() + _READY_SECONDS
        while chain not in (daemon_status(bpffs_root()) or {"chains": {}})["chains"]:
            if monotonic() > deadline:
                raise TimeoutError(f"the daemon does not serve the chain:\n{log.read_text()}")
            sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def serve(way: str) -> None:
    """The daemon's process."""
    find: Callable[[str], ControlPlane] = lambda kind: control_plane(kind, PLANES[way])  # noqa: E731
    asyncio.run(Daemon(bpffs_root(), Log(), find).run())


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1:2] == ["--serve"] else main()
