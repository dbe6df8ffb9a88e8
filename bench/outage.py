"""`python -m bench.outage [ROUNDS]`: how long nothing gets through a ring of bridges when one of its links is cut.

Five bridges of ours with default timers, in namespaces; one host sends a broadcast each millisecond, the others look
for the longest time without one. The link between the root and its neighbour goes, and comes back. Needs root.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from tests.rig.frames import Wire
from tests.rig.trees import OURS, Network, Plan, ring, switched, wait_until_found

_BRIDGES, _LINK = 5, (0, 1)
_FRAME = b"\xff" * 6 + bytes.fromhex("02dd00000000") + b"\x88\xb5"
_SEND_SECONDS = 0.001
_PATIENCE_SECONDS, _AFTERMATH_SECONDS = 60.0, 1.5
_REST_SECONDS = 8.0
"""Between cuts: no bridge sends more than six BPDUs at once, and one a second from then on (802.1D-2004 17.26)."""


def main(rounds: int) -> None:
    """Prints milliseconds for each cut, and the median of the longest outages."""
    with (
        tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder,
        switched([Plan([OURS] * _BRIDGES, ring(_BRIDGES), quick=False)], Path(folder)) as ((network,), _),
    ):
        found = [_cut(network) for _ in range(rounds)]
    sys.stdout.write(f"median of the longest: {median(max(outages) for outages in found):.0f} ms\n")


def _cut(network: Network) -> list[float]:
    """Milliseconds without a frame at each host but the sender, around the cut of the link."""
    wait_until_found([network], _PATIENCE_SECONDS)
    time.sleep(_REST_SECONDS)
    with _sending(network.hosts[0]), _watching([network.hosts[host] for host in range(1, _BRIDGES)]) as outages:
        time.sleep(_AFTERMATH_SECONDS / 5)
        network.switch(_LINK, on=False)
        time.sleep(_AFTERMATH_SECONDS)
    network.switch(_LINK, on=True)
    sys.stdout.write("  ".join(f"{outage:.0f}" for outage in outages) + " ms\n")
    sys.stdout.flush()
    return outages


@contextmanager
def _sending(wire: Wire) -> Iterator[None]:
    stopped = threading.Event()

    def send() -> None:
        for number in itertools.count():
            wire.send(_FRAME + number.to_bytes(46))
            if stopped.wait(_SEND_SECONDS):
                return

    with _running([threading.Thread(target=send)], stopped):
        yield


@contextmanager
def _watching(wires: list[Wire]) -> Iterator[list[float]]:
    """What it gives is filled in at the end of the block: the longest time between two frames, in milliseconds."""
    stopped, outages = threading.Event(), [0.0] * len(wires)

    def watch(at: int) -> None:
        wires[at].drain()
        last = time.monotonic()
        while not stopped.is_set():
            frame = wires[at].receive(0.1)
            now = time.monotonic()
            if frame and frame.startswith(_FRAME):
                outages[at], last = max(outages[at], (now - last) * 1000), now
        outages[at] = max(outages[at], (time.monotonic() - last) * 1000)

    with _running([threading.Thread(target=watch, args=(at,)) for at in range(len(wires))], stopped):
        yield outages


@contextmanager
def _running(threads: list[threading.Thread], stopped: threading.Event) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
