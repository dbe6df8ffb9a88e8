"""Items in, what is made of each in threads out: concurrent.futures without its import, which takes 4 ms."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def in_threads(
    make: Callable[[Item], Made], items: Sequence[Item], most: int | None = None
) -> list[Made | BaseException]:
    """What `make` returns or raises for each item, in their order; `most` at a time, or as many as there are CPUs.

    Whoever is interrupted meanwhile waits for those that have begun.
    """
    found: dict[int, Made | BaseException] = {}
    waiting = deque(enumerate(items))

    def work(over: Event) -> None:
        while waiting:
            try:
                index, item = waiting.popleft()
            except IndexError:  # another one was quicker
                break
            try:
                found[index] = make(item)
            except BaseException as error:
                found[index] = error
        over.set()

    overs = [Event() for _ in range(min(most or os.cpu_count() or 1, len(items)))]
    threads = [Thread(target=work, args=(over,)) for over in overs]
    try:
        for thread in threads:
            thread.start()
        for over in overs:  # not `join`: if that is interrupted, Python 3.11 takes the thread for ended
            over.wait()
    finally:
        waiting.clear()
        for thread, over in zip(threads, overs, strict=True):
            if thread.ident is not None:  # otherwise it has not begun, and finds nothing to do
                over.wait()
    return [found[index] for index in range(len(items))]
