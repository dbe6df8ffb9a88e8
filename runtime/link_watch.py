"""Network namespaces in; their devices as they are now out, and a call as soon as one of them changes.

A subscription tells of changes at once (RTNLGRP_LINK). What it tells is not looked at, only that there was something.
"""

from __future__ import annotations

from collections.abc import Callable

from .devices import DeviceSocket
from .rtnetlink import Group, Subscription

_BUFFER = 1 << 20
"""Bytes; a change is told in about 2000. More than fit are one change as well."""

Watch = Callable[[Subscription, Callable[[], None]], Callable[[], object]]
"""Has a function called whenever the file can be read; gives what ends that."""


class LinkWatch:
    """The devices of one namespace, which is not kept alive for longer than to the next `renew`."""

    def __init__(self, netns: str | None, watch: Watch, changed: Callable[[], None]) -> None:
        """`changed` is called from the loop that `watch` stands for."""
        self.devices = DeviceSocket(netns)
        self._watch = watch
        self._changed = changed
        self._end: Callable[[], object] | None = None

    def renew(self) -> bool:
        """Opens its sockets where there is another namespace by now; whether it still was the same.

        Raises LoadFailed (L151), OSError.
        """
        if self.devices.is_there:
            return True
        self.close()
        if self.devices.open():
            self._subscribe()
        return False

    def _subscribe(self) -> None:
        subscription = Subscription(self.devices.netns, (Group.RTNLGRP_LINK,), _BUFFER)

        def read() -> None:
            subscription.discard()
            self._changed()

        unwatch = self._watch(subscription, read)

        def end() -> None:
            unwatch()
            subscription.close()

        self._end = end

    def close(self) -> None:
        if self._end:
            self._end()
        self._end = None
        self.devices.close()
