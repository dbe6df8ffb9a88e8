"""`make demo`: a guarded bridge between network namespaces, from its chain file to counted packets, in seconds."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyroute2

import bpfchain
from compiler.build import Compiled
from runtime import features, info
from runtime.netns import entered

from .rig.lab import Lab, Namespace, unique_name
from .rig.traffic import BackgroundPing, ping, send_udp, udp_socket

CHAIN_FILE = Path(__file__).parents[1] / "chains" / "guarded-bridge.yaml"

PICTURE = """
    desk1 10.0.0.1 ──┐
                     ├── switch ── street 10.0.0.3, and from farther away 203.0.113.7 and 198.51.100.7
    desk2 10.0.0.2 ──┘   runs the chain: a bridge of three ports, with a guard before the one to the street
"""

DESK1, DESK1_V6, DESK2, STREET, STREET_V6 = "10.0.0.1", "fd00::1", "10.0.0.2", "10.0.0.3", "fd00::3"
FIRST, SECOND, BLOCKED_V6 = "198.51.100.7", "203.0.113.7", "2001:db8:bad::7"
FIRST_ENTRY, SECOND_ENTRY = "198.51.100.0/24", "203.0.113.0/24"

UDP_PORT = 9000
DATAGRAMS = 100
PINGS = 10

AROUND_THE_SWAP = 0.5
"""Seconds that the ping goes on before and after the chain is replaced under it."""

_steps = itertools.count(1)


class Unexpected(Exception):
    """A count is not what it must be; the argument says which."""


def main() -> int:
    obstacle = what_is_missing()
    if obstacle:
        print(obstacle)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is removed then, too
    started = time.monotonic()
    try:
        demonstrate()
    except bpfchain.ChainError as error:
        print(bpfchain.render(error))
        return 1
    except Unexpected as unexpected:
        print(f"  ✗ {unexpected}\n\nThe demo failed.")
        return 1
    print(f"\nAll counts are what they must be. It took {time.monotonic() - started:.1f} seconds.")
    return 0


def what_is_missing() -> str:
    """One sentence about why the demo cannot run here; empty if it can."""
    missing = features.missing_privileges()
    if os.geteuid() != 0 or missing:
        lacking = f" ({', '.join(missing)} missing)" if missing else ""
        return f"The demo makes network namespaces and loads programs, so it needs root{lacking}: run `sudo make demo`."
    if not Path("/proc/sys/net/ipv6").exists():
        return "The demo sends IPv6, too, and this kernel runs without it (booted with ipv6.disable=1?)."
    try:
        with Lab("demo") as lab:
            lab.cable((lab.namespace("left"), "eth0"), (lab.namespace("right"), "eth0"))
    except (OSError, pyroute2.NetlinkError) as error:
        return f"The demo needs network namespaces and veth pairs, which cannot be made here: {error}."
    return ""


def demonstrate() -> None:
    """The whole story, on a network of its own that is gone afterwards."""
    with Lab("demo") as lab, tempfile.TemporaryDirectory(prefix="bpfchain-demo-") as folder:
        step("A network: four namespaces, joined by veths")
        print(PICTURE.rstrip())
        site = Site.build(lab)
        shop = Workshop(unique_name("demo"), Path(folder))

        step(f"Compile chains/guarded-bridge.yaml (as chain {shop.chain}, so that it meets no other)")
        compiled = shop.compile()

        step("Plan: what `apply` would do")
        with entered(site.switch.name):
            show(bpfchain.plan(compiled))

        step("Apply")
        with applied(site.switch, compiled) as programs:
            use(site)
            change_the_block_list(site, shop)
            step("Status")
            show(bpfchain.status(shop.chain))
            programs |= program_ids(shop.chain)
            step("Detach")

        check("programs of it in the kernel", remaining(programs), 0)
        check("pings answered now that nobody forwards", ping(site.desk1, DESK2, count=2, timeout=0.1).received, 0)


@dataclass(frozen=True, slots=True)
class Site:
    """The four namespaces; `switch` is the one that runs the chain."""

    switch: Namespace
    desk1: Namespace
    desk2: Namespace
    street: Namespace

    @classmethod
    def build(cls, lab: Lab) -> Site:
        site = cls(*(lab.namespace(label) for label in ("switch", "desk1", "desk2", "street")))
        lab.cable((site.switch, "desk1"), (site.desk1, "eth0"), [f"{DESK1}/24", f"{DESK1_V6}/64"])
        lab.cable((site.switch, "desk2"), (site.desk2, "eth0"), [f"{DESK2}/24"])
        addresses = [f"{STREET}/24", f"{STREET_V6}/64", f"{FIRST}/24", f"{SECOND}/24", f"{BLOCKED_V6}/64"]
        lab.cable((site.switch, "uplink"), (site.street, "eth0"), addresses)
        return site


@dataclass(frozen=True, slots=True)
class Workshop:
    """Compiles the example under a name of this run's own, so that it cannot meet a chain that really runs here."""

    chain: str
    folder: Path

    def compile(self, old: str = "", new: str = "") -> Compiled:
        """The chain, with `new` in the place of `old` in its file."""
        text = CHAIN_FILE.read_text().replace(f"chain: {CHAIN_FILE.stem}", f"chain: {self.chain}")
        file = self.folder / CHAIN_FILE.name
        file.write_text(text.replace(old, new) if old else text)
        started = time.perf_counter()
        compiled = bpfchain.compile(file, self.folder / "compiled")
        seconds = time.perf_counter() - started
        programs = [program.name for program in compiled.chain.manifest.programs]
        made = f"{len(programs)} programs in {seconds:.2f} s, one for each port that a packet can come in by:"
        show(f"{made}\n{', '.join(programs)}")
        return compiled


@contextlib.contextmanager
def applied(switch: Namespace, compiled: Compiled) -> Iterator[set[int]]:
    """The chain running on the switch; yields the ids of its programs, to which later ones can be added."""
    chain = compiled.chain.manifest.chain
    with entered(switch.name):
        show(bpfchain.apply(compiled))
    try:
        yield program_ids(chain)
    finally:
        bpfchain.detach(chain)


def use(site: Site) -> None:
    """Pings that must be answered, datagrams of which some must not arrive."""
    step("Ping through the bridge")
    check("pings answered, desk1 to desk2", ping(site.desk1, DESK2, count=PINGS).received, PINGS)
    check("pings answered, desk1 to street, through the guard", ping(site.desk1, STREET, count=PINGS).received, PINGS)
    check("pings answered, the same in IPv6", ping(site.desk1, STREET_V6, count=PINGS).received, PINGS)

    step(f"Send {DATAGRAMS} datagrams to desk1 from an allowed source, and as many from two that are blocked")
    check(f"datagrams from {SECOND} arrived", arrivals(site, SECOND, DESK1), DATAGRAMS)
    check(f"datagrams from {FIRST} arrived", arrivals(site, FIRST, DESK1), 0)
    check(f"datagrams from {BLOCKED_V6} arrived", arrivals(site, BLOCKED_V6, DESK1_V6), 0)


def change_the_block_list(site: Site, shop: Workshop) -> None:
    """Another prefix is blocked from one packet to the next, and no other packet notices."""
    check("packets that the guard counted as blocked", blocked(shop.chain), 2 * DATAGRAMS)

    step(f"In the block list, put {SECOND_ENTRY} in the place of {FIRST_ENTRY}; apply while a ping runs")
    compiled = shop.compile(FIRST_ENTRY, SECOND_ENTRY)
    with entered(site.switch.name), BackgroundPing(site.desk1, STREET) as running:
        show(bpfchain.plan(compiled))
        time.sleep(AROUND_THE_SWAP)
        show(bpfchain.apply(compiled))
        time.sleep(AROUND_THE_SWAP)
    check(f"pings lost of {running.result.sent} sent meanwhile", running.result.lost, 0)
    check(f"datagrams from {FIRST} arrived", arrivals(site, FIRST, DESK1), DATAGRAMS)
    check(f"datagrams from {SECOND} arrived", arrivals(site, SECOND, DESK1), 0)
    check("packets that the guard counted as blocked, before and after", blocked(shop.chain), 3 * DATAGRAMS)


def arrivals(site: Site, source: str, target: str) -> int:
    """How many of the datagrams that `source` sends from the street arrive at desk1."""
    with udp_socket(site.desk1, target, UDP_PORT) as receiver:
        send_udp(site.street, source, (target, UDP_PORT), [bytes(64)] * DATAGRAMS)
        receiver.settimeout(0.3)
        for count in range(DATAGRAMS):
            try:
                receiver.recv(2048)
            except TimeoutError:
                return count
    return DATAGRAMS


def blocked(chain: str) -> int:
    """Packets that the guard counted as dropped for their source address."""
    count = bpfchain.status(chain).service("guard").drops.get("blocked-source")
    return count.packets if count else 0


def program_ids(chain: str) -> set[int]:
    """The kernel's ids of the programs that are attached."""
    return {interface.prog_id for interface in bpfchain.status(chain).interfaces}


def remaining(programs: set[int]) -> int:
    """How many of these programs are still there when the kernel has had the time to free them."""
    deadline = time.monotonic() + 2
    while (left := programs & {program.id for program in info.progs()}) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(left)


def step(title: str) -> None:
    print(f"\n{next(_steps)}. {title}")


def show(result: object) -> None:
    """What bpfchain itself says."""
    print("\n" + "\n".join(f"    {line}".rstrip() for line in str(result).strip().splitlines()))


def check(what: str, found: int, wanted: int) -> None:
    """Prints a count that is right; raises `Unexpected` for one that is not."""
    if found != wanted:
        raise Unexpected(f"{what}: {found}, where it must be {wanted}")
    print(f"  ✓ {what}: {found}")


if __name__ == "__main__":
    sys.exit(main())
