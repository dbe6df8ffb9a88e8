"""Network namespaces in; what the kernel tells of their routes, neighbours, links and addresses out, many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from .netns import NETNS_DIRECTORY
from .rtnetlink import RECEIVE_BUFFER, Change, Group, Lost, Overrun, Subscription

_BATCH = 1024
BUFFER = RECEIVE_BUFFER

Deliver = Callable[[str | None, Sequence[Change]], object]


class NetlinkWatch:
    """Notifications of several namespaces, from when it is made to `close`; those that are not there have none."""

    def __init__(self, namespaces: Iterable[str | None], deliver: Deliver) -> None:
        """`deliver` is called in the event loop that runs now. Raises OSError, LoadFailed (L151)."""
        self.namespaces = frozenset(namespaces)
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._subscriptions: list[Subscription] = []
        for netns in self.namespaces:
            if netns is None or (NETNS_DIRECTORY / netns).exists():
                subscription = Subscription(netns, tuple(Group), BUFFER)
                self._subscriptions.append(subscription)
                self._loop.add_reader(subscription, self._read, netns, subscription)

    def _read(self, netns: str | None, subscription: Subscription) -> None:
        try:
            changes: Sequence[Change] = subscription.receive(_BATCH)
        except Overrun:
            subscription.discard()
            changes = [Lost()]
        if changes:
            self._deliver(netns, changes)

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._loop.remove_reader(subscription)
            subscription.close()
        self._subscriptions = []
