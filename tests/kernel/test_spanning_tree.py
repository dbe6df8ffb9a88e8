"""Spanning trees of real bridges: ours among themselves and mixed with the kernel's own, in rings and meshes.

A broadcast from any host must reach every other host once, and never twice, not even while the tree is being found.
Networks are looked at side by side, because most of the time they wait. `BPFCHAIN_TEST_EVERY_TREE=1` has many more.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import bpfchain
from schemas.manifest import Mode
from tests.rig.trees import (
    OURS,
    QUICK,
    THEIRS,
    Link,
    Network,
    Plan,
    are_whole,
    heard,
    mesh,
    ring,
    switched,
    wait_until_found,
    wait_until_whole,
)

pytestmark = pytest.mark.kernel

STP_SECONDS = 60.0
"""What the quick timers come to is 14 s (802.1D-1998 8.10); more for a machine with other work."""

RSTP_SECONDS = 20.0
"""Below what timers alone take with the default ones: 30 s for listening and learning, 20 more to miss a bridge."""

NATIVE, GENERIC, TC = (mode.value for mode in Mode)


def kinds(letters: str) -> list[str]:
    """Bridges from the best on: `o` is one of ours, `t` one of theirs."""
    return [{"o": OURS, "t": THEIRS}[letter] for letter in letters]


SOME: Sequence[Plan] = (
    Plan(kinds("toto"), ring(4), NATIVE, apart=(0,)),
    Plan(kinds("otot"), mesh(4), GENERIC, apart=(0,)),
    Plan(kinds("oto"), ring(3), TC, apart=(0,)),
    Plan(kinds("totto"), ring(5), GENERIC, apart=(0,)),
    Plan(kinds("ottott"), ring(6), NATIVE, apart=(0,)),
    Plan(kinds("ttoto"), mesh(5), TC, apart=(0,)),
)


def mixed(counts: range) -> Iterator[Plan]:
    """Rings and meshes of both kinds of bridges, every way to mix them.

    Not generic: there the kernel ends a flood at a port that is set down, as a cut link's end is here.
    """
    modes = itertools.cycle((NATIVE, TC))
    for count in counts:
        for chosen in itertools.product((OURS, THEIRS), repeat=count):
            if OURS in chosen:
                yield Plan(chosen, ring(count), next(modes), apart=(0,))
                yield Plan(chosen, mesh(count), next(modes), apart=(0,))


EVERY = os.environ.get("BPFCHAIN_TEST_EVERY_TREE") == "1"
CHOSEN = [SOME]
if EVERY:
    many = random.Random(6).sample(list(mixed(range(3, 7))), 60)
    CHOSEN += [tuple(many[at : at + 6]) for at in range(0, len(many), 6)]


@pytest.mark.parametrize("plans", CHOSEN, ids=lambda plans: plans[0].name)
def test_rings_and_meshes_of_ours_and_the_kernels(plans: Sequence[Plan], tmp_path: Path) -> None:
    """One root, no loop, the blocked ports where the standard puts them; also after a cut, and with a better root.

    First without the best bridge, which comes last; and a link of the best one that is there is cut in between.
    """
    with switched(plans, tmp_path) as (networks, _):
        wait_until_found(networks, STP_SECONDS)
        for network in networks:
            network.switch(of_bridge(network, 1)[0], on=False)
        wait_until_found(networks, STP_SECONDS)
        for network in networks:
            for link in sorted(network.cut):
                network.switch(link, on=True)
        wait_until_found(networks, STP_SECONDS)


def of_bridge(network: Network, number: int) -> list[Link]:
    """The links of a bridge that are not cut."""
    return [link for link in network.links if number in link]


def test_rings_of_ours_heal_without_waiting_for_timers(tmp_path: Path) -> None:
    """The default timers: listening and learning alone would take 30 s."""
    with switched([Plan(kinds("ooooo"), ring(5), quick=False)], tmp_path) as ((found,), _):
        wait_until_found([found], RSTP_SECONDS)
        for link in ((0, 1), (4, 0)):
            found.switch(link, on=False)
            wait_until_whole([found], RSTP_SECONDS)
            found.switch(link, on=True)
            wait_until_found([found], RSTP_SECONDS)


KILLED: Sequence[Plan] = (
    Plan(kinds("ooo"), ring(3), NATIVE, victims=(0,)),
    Plan(kinds("ooto"), ring(4), TC, victims=(1,)),
    Plan(kinds("otoo"), mesh(4), GENERIC, victims=(2,)),
    Plan(kinds("ooooo"), mesh(5), NATIVE, victims=(0,)),
    Plan(kinds("tooot"), ring(5), NATIVE, victims=(2, 3)),
)
EVERY_KILLED = [KILLED]
if EVERY:
    EVERY_KILLED += [
        [Plan(kinds(letters), links(len(letters)), TC, victims=(victim,)) for letters in ("oooo", "oooot", "toooo")]
        for links in (ring, mesh)
        for victim in (2, 3)
    ]
    EVERY_KILLED += [
        [Plan(kinds("o" * count), links(count), mode, victims=(0,)) for links in (ring, mesh) for count in (4, 5)]
        for mode in (NATIVE, GENERIC, TC)
    ]


@pytest.mark.parametrize("plans", EVERY_KILLED, ids=lambda plans: plans[0].name)
def test_a_bridge_whose_daemon_is_killed_makes_no_loop(plans: Sequence[Plan], tmp_path: Path) -> None:
    """Its states stay, and the others hear each other through it. Once the daemon is back, the tree is the old one."""
    with switched(plans, tmp_path) as (networks, victims):
        wait_until_found(networks, STP_SECONDS)
        before = [own_states(network) for network in networks]
        victims.kill()
        until = time.monotonic() + 2 * QUICK["max-age"] + 2 * QUICK["forward-delay"]
        while time.monotonic() < until:
            heard(networks)
        wait_until_whole(networks, RSTP_SECONDS)  # a broadcast may be late on a loaded machine
        assert [own_states(network) for network in networks] == before
        victims.start()
        wait_until_found(networks, STP_SECONDS)


def own_states(network: Network) -> set[Link]:
    """The ports of the victims that forward."""
    return {(one, other) for one, other in network.forwarding() if one in network.plan.victims}


def test_without_a_control_plane_no_port_opens(tmp_path: Path) -> None:
    with switched([Plan(kinds("ooo"), ring(3), quick=False)], tmp_path) as ((found,), process):
        wait_until_whole([found], RSTP_SECONDS)
        compiled, _ = found.chains[0]
        assert [port.note for port in bpfchain.status(compiled.manifest.chain).service("br0").ports] == [
            "designated, forwarding"
        ] * 3
        process.kill()
        before = found.forwarding()
        assert are_whole([found])
        found.switch((0, 1), on=False)
        time.sleep(1)
        assert found.forwarding() == before - {(0, 1), (1, 0)}
        assert not are_whole([found])
        process.start()
        wait_until_whole([found], RSTP_SECONDS)
