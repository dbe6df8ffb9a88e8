"""A router's tables in a loop with the kernel's routes: what is done while it is not certain how these are."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

from runtime.control import Context
from runtime.log import Log
from runtime.routing import following
from runtime.routing.following import Following
from tests.kernel.test_kernel_routes import Net, interleaved, net
from tests.unit.test_router_followed import Memory

pytestmark = pytest.mark.kernel
PATIENCE = 60.0


class Cancelled:
    def __init__(self, cancel: Callable[[], object]) -> None:
        self.cancel = cancel


class Loop:
    """What `Following` needs of a context."""

    log = Log()

    def watch(self, file: Any, call: Callable[[], object]) -> Cancelled:
        loop = asyncio.get_running_loop()
        loop.add_reader(file, call)
        return Cancelled(lambda: loop.remove_reader(file))

    def spawn(self, work: Coroutine[Any, Any, object]) -> Cancelled:
        return Cancelled(asyncio.get_running_loop().create_task(work).cancel)


async def wait_for(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def ip(made: Net, command: str) -> None:
    """Another process, as the netlink library does not go with a loop that runs."""
    subprocess.run(["ip", "-n", made.namespace.name, *command.split()], check=True)


def lose_some(made: Net, netlink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the next dump pass IPv6 routes over."""
    for number in range(1000):
        netlink.route("add", family=socket.AF_INET6, dst=f"fd70:{number:x}::/32", gateway="fd01::2")
    pieces = 0

    def between(family: int) -> None:
        nonlocal pieces
        pieces += family == socket.AF_INET6
        if pieces == 3:
            ip(made, "route del fd70:0::/32")
            ip(made, "route add fd7f::/32 via fd01::2")

    interleaved(monkeypatch, between)


def test_changes_are_followed_while_routes_may_be_missing_and_what_was_missing_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(made: Net, memory: Memory) -> None:
        monkeypatch.setattr(following, "_PAUSE_SECONDS", PATIENCE)
        followed = memory.followed()
        follows = Following(cast("Context", Loop()), followed, made.namespace.name, 254)
        await wait_for(lambda: follows.loaded)
        assert follows.follower.has_gaps
        ip(made, "route add blackhole 10.64.0.0/16")
        await wait_for(lambda: memory.index("10.64.0.1") != 0)
        assert follows.follower.has_gaps, "the table has not been read again"
        monkeypatch.setattr(following, "_PAUSE_SECONDS", 0.01)
        for how in ("add", "del"):
            ip(made, f"addr {how} 10.9.0.1/24 dev {made.cables[1].port.name}")
        await wait_for(lambda: follows.follower.whole)
        assert len([prefix for prefix in follows.follower.routes.prefixes() if prefix[2] == 32]) == 1000
        ip(made, "route del blackhole 10.64.0.0/16")
        await wait_for(lambda: memory.index("10.64.0.1") == 0)
        follows.close()

    with net() as (made, netlink):
        lose_some(made, netlink, monkeypatch)
        asyncio.run(scenario(made, Memory(routes=4000)))
