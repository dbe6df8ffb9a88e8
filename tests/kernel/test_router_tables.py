"""Tables of routes through changes of the chain, with a daemon and without: whole from the first packet on."""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import bpfchain
from compiler.build import Compiled
from runtime.apply import apply
from runtime.netns import entered
from runtime.plan import Fate, Plan
from runtime.steps import Step
from schemas.diagnostic import ChainError
from schemas.manifest import Mode
from tests.kernel.faults import killed_at_step
from tests.kernel.test_router import HERE, RIGHT, SERVER, THERE, Served, chain, served
from tests.kernel.test_router_routes import (
    PORT_BY_GATEWAY,
    SOURCE,
    address_in,
    all_go_right,
    answer,
    becomes,
    fed_routes,
    following,
    settle,
    static,
    way,
)
from tests.rig.frames import Wire
from tests.rig.network import network, running
from tests.services.router_frames import IPV4, ethernet, ipv4, ports

pytestmark = [pytest.mark.kernel]

FLOW = "10.64.1.1"
FEW, MANY = fed_routes(200), fed_routes(400)
TABLES = {"gw__roots4", "gw__ranges4", "gw__roots6", "gw__ranges6", "gw__followed"}


def with_flow(routes: Mapping[str, str]) -> dict[str, Any]:
    return static({**routes, "10.64.1.0": HERE})


def compiled(router: Served, folder: Path, **more: Any) -> Compiled:
    """Another version of the chain that runs."""
    folder.mkdir()
    file = folder / "chain.yaml"
    file.write_text(yaml.safe_dump({**chain(Mode.NATIVE, **more), "chain": router.name}, sort_keys=False))
    return bpfchain.compile(file, folder / "compiled")


class Flow(threading.Thread):
    """A packet every two milliseconds from the right to the left; `lost` are those that have not come out just once."""

    def __init__(self, router: Served, destination: str) -> None:
        super().__init__()
        self._router, self._destination = router, destination
        self._ends = threading.Event()
        self._sent, self._arrived = 0, Counter[int]()

    def run(self) -> None:
        cables = self._router.net.cables
        with Wire(cables["left"].station, buffer=8 << 20) as left, Wire(cables["right"].station) as right:
            while not self._ends.is_set():
                self._sent += 1
                packet = ipv4(SOURCE, self._destination, ports(1, 9), identification=self._sent)
                right.send(ethernet(SERVER, RIGHT, IPV4, packet))
                self._take(left, 0)
                time.sleep(0.002)
            deadline = time.monotonic() + 5
            while self.lost and time.monotonic() < deadline:
                self._take(left, 0.05)

    def _take(self, left: Wire, patience: float) -> None:
        while (frame := left.receive(patience)) is not None:
            if frame[30:34] == bytes(map(int, self._destination.split("."))) and frame[12:14] == b"\x08\0":
                self._arrived[int.from_bytes(frame[18:20], "big")] += 1
            answer(self._router, "left", [frame])
            patience = 0

    @property
    def lost(self) -> list[int]:
        return [number for number in range(1, self._sent + 1) if self._arrived[number] != 1]


@contextlib.contextmanager
def flowing(router: Served, destination: str = FLOW) -> Iterator[None]:
    """Nothing of a flow is lost or comes twice in the block."""
    flow = Flow(router, destination)
    flow.start()
    try:
        yield
    finally:
        flow._ends.set()
        flow.join()
    assert not flow.lost, f"{len(flow.lost)} of {flow._sent}"
    assert flow._sent
    for wire in router.net.wires.values():
        wire.drain()


def changed_maps(plan: Plan) -> dict[str, tuple[str, Fate | None]]:
    return {change.name: (change.action.value, change.state) for change in plan.changes if change.name in TABLES}


@pytest.mark.parametrize("served_by", ["a daemon", "nobody"])
def test_routes_move_into_tables_and_back_without_a_gap(served_by: str, tmp_path: Path) -> None:
    """Neighbours stay known, and no packet of a flow along a static route is lost."""
    with served(chain(Mode.NATIVE, **with_flow(FEW)), tmp_path) as router:
        router.introduce()
        becomes(router, FLOW, "left")
        many = compiled(router, tmp_path / "many", **with_flow(MANY))
        few = compiled(router, tmp_path / "few", **with_flow(FEW))
        if served_by == "nobody":
            router.process.kill()
        with entered(router.net.dut.name):
            planned = bpfchain.plan(many)
            assert changed_maps(planned) == dict.fromkeys(TABLES, ("add", None))
            assert all(
                "filled before it is used" in change.reasons for change in planned.changes if change.name in TABLES
            )
            assert {"gw__neighbours4", "gw__neighbours6"} <= set(planned.kept)
            with flowing(router):
                bpfchain.apply(many)
            all_go_right(router, MANY, [*MANY])
            assert changed_maps(bpfchain.plan(few)) == dict.fromkeys(TABLES, ("remove", Fate.REMOVED))
            with flowing(router):
                bpfchain.apply(few)
        all_go_right(router, FEW, [*MANY])


def test_changed_routes_are_in_new_tables_which_nobody_has_to_load(tmp_path: Path) -> None:
    changed = {**MANY, "99.0.0.0": HERE}
    del changed[next(iter(MANY))]
    with served(chain(Mode.NATIVE, **with_flow(MANY)), tmp_path) as router:
        router.introduce()
        becomes(router, FLOW, "left")
        router.process.kill()
        other = compiled(router, tmp_path / "other", **with_flow(changed))
        with entered(router.net.dut.name):
            planned = bpfchain.plan(other)
            assert changed_maps(planned) == dict.fromkeys(TABLES, ("change", Fate.FILLED))
            assert "state kept: " in str(planned)
            assert "filled anew: gw__followed, gw__roots4" in str(planned)
            with flowing(router):
                bpfchain.apply(other)
            assert not bpfchain.plan(other)
        all_go_right(router, changed, [*MANY, "99.0.0.0"])


def test_whoever_fails_or_dies_at_any_step_leaves_one_of_both_whole(tmp_path: Path) -> None:
    """From code into tables: from the step that fills them to the last that can fail."""
    with served(chain(Mode.NATIVE, **with_flow(FEW)), tmp_path) as router:
        router.introduce()
        becomes(router, FLOW, "left")
        router.process.kill()
        few = compiled(router, tmp_path / "few", **with_flow(FEW))
        many = compiled(router, tmp_path / "many", **with_flow(MANY))
        only_of_many = [*MANY][-1]
        steps: list[str] = []
        with entered(router.net.dut.name):
            apply(many.chain, on_step=lambda step: steps.append(step.title))
            bpfchain.apply(few)
            for number in range(steps.index("fill the tables"), steps.index("finish the new generation") + 1):
                with flowing(router), pytest.raises(ChainError):
                    apply(many.chain, on_step=failing_at(number))
                assert way(router, address_in(only_of_many)) is None, steps[number]
                with flowing(router):
                    killed_at_step(lambda on_step: apply(many.chain, on_step=on_step), number)
                assert not gone_wrong(router, FEW)
                bpfchain.apply(few)
            bpfchain.apply(many)
        all_go_right(router, MANY, [*MANY])


def failing_at(number: int) -> Callable[[Step], None]:
    count = itertools.count()

    def on_step(step: Step) -> None:
        if next(count) == number:
            raise OSError(errno.EIO, step.title)

    return on_step


def gone_wrong(router: Served, routes: Mapping[str, str]) -> list[str]:
    """Of some routes those that do not lead where they should: the same in code and in tables."""
    sample = [*routes][:: len(routes) // 4]
    return [prefix for prefix in sample if way(router, address_in(prefix)) != PORT_BY_GATEWAY[routes[prefix]]]


def test_a_try_of_other_routes_goes_back_to_the_tables_that_were(tmp_path: Path) -> None:
    changed = {prefix: HERE if gateway == THERE else THERE for prefix, gateway in MANY.items()}
    with served(chain(Mode.NATIVE, **with_flow(MANY)), tmp_path) as router:
        router.introduce()
        becomes(router, FLOW, "left")
        router.process.kill()
        other = compiled(router, tmp_path / "other", **with_flow(changed))
        with entered(router.net.dut.name):
            with flowing(router):
                attempt = bpfchain.try_(other, timeout=300)
            all_go_right(router, changed, [*changed])
            with flowing(router):
                attempt.abort()
        all_go_right(router, MANY, [*MANY])


# --- with routes of the kernel --------------------------------------------------------------------------------------


def test_the_kernels_routes_are_there_from_the_first_packet_on(tmp_path: Path) -> None:
    """The chain is applied anew with the tables of another size, and then a static route changes: nobody has to run."""
    follows: dict[str, Any] = {"kernel-routes": {"table": "main", "size": 1000}}
    wider: dict[str, Any] = {"kernel-routes": {"table": "main", "size": 20_000}}
    with following(tmp_path, **follows) as (router, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway=HERE)
        netlink.route("add", dst="10.66.0.0/16", gateway=THERE)
        becomes(router, FLOW, "left")
        router.process.kill()
        larger = compiled(router, tmp_path / "larger", **wider)
        routed = compiled(router, tmp_path / "static", **wider, routes=[{"to": "10.66.0.0/16", "via": HERE}])
        with entered(router.net.dut.name):
            assert changed_maps(bpfchain.plan(larger)) == dict.fromkeys(TABLES, ("change", Fate.FILLED))
            with flowing(router):
                bpfchain.apply(larger)
                assert changed_maps(bpfchain.plan(routed)) == dict.fromkeys(TABLES, ("change", Fate.FILLED))
                bpfchain.apply(routed)
        assert way(router, "10.66.1.1") == "left", "the chain file's comes before the kernel's"
        with entered(router.net.dut.name), flowing(router):
            bpfchain.apply(larger)
        assert way(router, "10.66.1.1") == "right", "and the kernel's is there again"


def test_a_static_route_changes_while_a_daemon_follows(tmp_path: Path) -> None:
    follows: dict[str, Any] = {"kernel-routes": {"table": "main", "size": 1000}}
    with following(tmp_path, **follows) as (router, netlink):
        netlink.route("add", dst="10.64.0.0/16", gateway=HERE)
        becomes(router, FLOW, "left")
        for number in range(4):
            gateway = (THERE, HERE)[number % 2]
            other = compiled(router, tmp_path / str(number), **follows, routes=[{"to": "10.66.0.0/16", "via": gateway}])
            with entered(router.net.dut.name), flowing(router):
                bpfchain.apply(other)
                netlink.route("add", dst=f"10.7{number}.0.0/16", gateway=HERE)
            assert way(router, "10.66.1.1") == ("right", "left")[number % 2]
            becomes(router, f"10.7{number}.1.1", "left")
        assert not router.process.failures(router.name, "gw")


def test_routes_of_the_kernel_are_there_before_a_daemon_ever_was(tmp_path: Path) -> None:
    follows: dict[str, Any] = {"kernel-routes": {"table": "main", "size": 1000}}
    with network("left", "right") as net:
        settle(net)
        with net.dut.netlink() as netlink:
            netlink.route("add", dst="10.64.0.0/16", type="blackhole")
        with running(net.dut, chain(Mode.NATIVE, **follows), tmp_path) as applied:
            net.send("right", ethernet(SERVER, RIGHT, IPV4, ipv4(SOURCE, FLOW, ports(1, 9))))
            deadline = time.monotonic() + 20
            while "blackhole" not in bpfchain.status(applied.manifest.chain).service("gw").drops:
                assert time.monotonic() < deadline
                time.sleep(0.01)
