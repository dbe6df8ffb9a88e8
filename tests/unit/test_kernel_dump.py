"""A dump that is taken somewhere among changes, and the changes: what comes of it against a model of a kernel's table.

The model is that of one prefix of IPv4 (fib_table_insert(), net/ipv4/fib_trie.c): routes by metric, and of one metric
in the order in which they were put there.
"""

from __future__ import annotations

from socket import AF_INET
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.kernel_routes import Dump, KernelRoutes, Outcome, Paths
from runtime.rtnetlink import NLM_F_APPEND, NLM_F_REPLACE, RTN_UNICAST, Hop, Path, Prefix, RouteChange

MAIN = 254
PREFIX: Prefix = AF_INET, 0x0A400000, 16
OTHER: Prefix = AF_INET, 0x0A500000, 16
REQUESTS = ("add", "append", "prepend", "replace", "del")


def path(metric: int, gateway: int) -> Path:
    return Path(AF_INET, metric, RTN_UNICAST, 4, MAIN, (Hop(2, bytes((10, 0, 0, gateway)), 1),), special=False)


class Command(NamedTuple):
    request: str
    path: Path


def carried_out(before: Paths, command: Command) -> tuple[Paths, RouteChange | None]:
    """The routes after a command and what the kernel tells of it; None where it refuses, or there is nothing to do."""
    new = command.path
    same = [each for each in before if each.metric == new.metric]
    if command.request == "del":
        if new not in before:
            return before, None
        after = tuple(each for each in before if each != new)
        return after, RouteChange(PREFIX, new, gone=True, flags=0)
    if new in before or (command.request == "add" and same):
        return before, None
    lower = tuple(each for each in before if each.metric < new.metric)
    higher = tuple(each for each in before if each.metric > new.metric)
    within, flags = {
        "append": ((*same, new), NLM_F_APPEND if same else 0),
        "replace": ((new, *same[1:]), NLM_F_REPLACE if same else 0),
    }.get(command.request, ((new, *same), 0))
    return (*lower, *within, *higher), RouteChange(PREFIX, new, gone=False, flags=flags)


def history(commands: list[Command]) -> tuple[list[Paths], list[RouteChange]]:
    """The routes after each change, beginning with none, and the changes."""
    states: list[Paths] = [()]
    changes = []
    for command in commands:
        after, told = carried_out(states[-1], command)
        if told is not None:
            states.append(after)
            changes.append(told)
    return states, changes


def dumped(paths: Paths, later: list[RouteChange]) -> tuple[Dump, bool]:
    """A dump of these routes and the changes that are told of after it has begun."""
    dump = Dump(MAIN)
    dump.begin(AF_INET)
    found = [RouteChange(PREFIX, each, gone=False, flags=0) for each in paths]
    dump.add([*found, RouteChange(OTHER, path(0, 9), gone=False, flags=0)])
    for change in later:
        dump.replay(change)
    return dump, settled(dump)


def settled(dump: Dump) -> bool:
    steps = dump.settle()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return bool(end.value)


def commands(requests: tuple[str, ...], gateways: int, metrics: tuple[int, ...]) -> st.SearchStrategy[list[Command]]:
    paths = st.builds(path, st.sampled_from(metrics), st.integers(1, gateways))
    return st.lists(st.builds(Command, st.sampled_from(requests), paths), min_size=1, max_size=14)


@given(commands(REQUESTS, 3, (10, 20)), st.data())
@settings(max_examples=300, deadline=None)
def test_what_is_certain_is_right_wherever_the_dump_was_taken(
    given_commands: list[Command], data: st.DataObject
) -> None:
    states, changes = history(given_commands)
    first = data.draw(st.integers(0, len(changes)), "changes from before it began")
    at = data.draw(st.integers(first, len(changes)), "changes that it has seen")
    dump, certain = dumped(states[at], changes[first:])
    assert dump.complete
    assert dump.routes.best(OTHER) == path(0, 9)
    if certain:
        assert dump.routes.paths(PREFIX) == states[-1]
    else:
        assert dump.routes.paths(PREFIX) == states[at], "it is left as it was dumped"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=14), st.data())
@settings(max_examples=100, deadline=None)
def test_one_route_at_a_time_is_always_certain(gateways: list[int], data: st.DataObject) -> None:
    """A route is replaced by another one, or gone (0) and new again."""
    asked: list[Command] = []
    there = 0
    for gateway in gateways:
        asked.append(Command("replace", path(0, gateway)) if gateway else Command("del", path(0, there)))
        there = gateway
    states, changes = history(asked)
    at = data.draw(st.integers(0, len(changes)), "changes that it has seen")
    dump, certain = dumped(states[at], changes)
    assert certain
    assert dump.routes.paths(PREFIX) == states[-1]


@given(commands(REQUESTS, 3, (10, 20)))
@settings(max_examples=100, deadline=None)
def test_changes_alone_give_the_routes_of_the_model(given_commands: list[Command]) -> None:
    states, changes = history(given_commands)
    table = KernelRoutes(MAIN)
    for state, change in zip(states[1:], changes, strict=True):
        assert table.change(change) is Outcome.CHANGED
        assert table.paths(PREFIX) == state


def test_what_has_been_appended_and_dumped_is_not_appended_again() -> None:
    """A, then B behind it, then A gone and behind B: the dump may have seen any of these."""
    asked = [Command("add", path(0, 1)), Command("append", path(0, 2)), Command("del", path(0, 1))]
    states, changes = history([*asked, Command("append", path(0, 1))])
    for state in states:
        dump, certain = dumped(state, changes)
        assert not certain or dump.routes.paths(PREFIX) == states[-1] == (path(0, 2), path(0, 1))


def test_what_may_have_come_about_in_two_ways_is_uncertain() -> None:
    """The same changes and the same dump, once taken before them and once after: only another dump tells."""
    asked = [Command("replace", path(0, 3)), Command("del", path(0, 3))]
    one, changes = history([Command("add", path(0, 1)), *asked])
    two, same = history([Command("add", path(0, 1)), Command("prepend", path(0, 2)), *asked])
    assert changes[1:] == same[2:]
    assert one[1] == two[-1] == (path(0, 1),)
    assert one[-1] == ()
    dump, certain = dumped((path(0, 1),), changes[1:])
    assert not certain
    assert dump.routes.paths(PREFIX) == (path(0, 1),)


def test_what_cannot_have_come_about_is_uncertain() -> None:
    """One goes that is neither in the dump nor new since: it has lost something."""
    _, certain = dumped((path(0, 1),), [RouteChange(PREFIX, path(0, 1), gone=True, flags=0)] * 2)
    assert not certain


def test_what_is_told_of_a_family_before_its_dump_begins_is_in_it() -> None:
    dump = Dump(MAIN)
    dump.replay(RouteChange(PREFIX, path(0, 1), gone=False, flags=0))
    assert settled(dump)
    assert dump.routes.best(PREFIX) is None
