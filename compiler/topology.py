"""Interfaces, services and links in, diagnostics out: whether packets can travel this graph at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from schemas.diagnostic import Span
from schemas.manifest import Hook

from .model import Chain, Host, Interface, Link, LinkEnd, Port, ServiceInstance
from .source import Report
from .words import listed

MAX_TAIL_CALLS = 33  # MAX_TAIL_CALL_CNT, include/linux/bpf.h


def check_topology(
    interfaces: Sequence[Interface],
    services: Sequence[ServiceInstance],
    links: Sequence[Link],
    report: Report,
    *,
    complete: bool,
) -> None:
    """Report what is wrong with the graph as a whole; `complete` where no part of it is missing by a mistake."""
    graph = _Graph(services, links)
    looping = _check_loops(graph, report)
    if complete:
        _check_unreached(graph, interfaces, looping, report)
    _check_flooding_to_host(graph, interfaces, report)
    _check_namespaces(graph, interfaces, report)
    if not looping:
        _check_tail_calls(graph, interfaces, report)


def with_interfaces(services: Sequence[ServiceInstance], links: Sequence[Link]) -> tuple[ServiceInstance, ...]:
    """The services, each told which of its ports lead to an interface."""
    graph = _Graph(services, links)
    return tuple(
        replace(
            instance,
            interfaces=tuple(
                (port.name, interface)
                for port in instance.ports
                if (interface := _interface_behind(graph, port)) is not None
            ),
        )
        for instance in services
    )


def _interface_behind(graph: _Graph, port: Port) -> Interface | None:
    """What `port` is linked to, straight or through transparent services."""
    passed: set[Port] = set()
    end = graph.peer(port)
    while isinstance(end, Port) and end not in passed:
        passed.add(end)
        instance = graph.services.get(end.service)
        if instance is None or not instance.service.transparent:
            return None
        end = graph.peer(next(other for other in instance.ports if other != end))
    return end if isinstance(end, Interface) else None


def check_tail_calls(chain: Chain, report: Report) -> None:
    """Report what `check_topology` could not see yet: tail calls through services that the compiler has put there."""
    _check_tail_calls(_Graph(chain.services, chain.links), chain.interfaces, report)


class _Graph:
    """Where packets can go: from an incoming port out by which ports, and what each leads to."""

    def __init__(self, services: Sequence[ServiceInstance], links: Sequence[Link]) -> None:
        self.services = {service.name: service for service in services}
        self.links = links
        self.link: dict[Port | Interface, Link] = {}
        for link in links:
            for end in link.ends:
                if not isinstance(end, Host):
                    self.link.setdefault(end, link)

    def peer(self, end: Port | Interface) -> LinkEnd | None:
        link = self.link.get(end)
        return link.other(end) if link else None

    def ways_out(self, incoming: Port) -> Iterator[Port]:
        return iter(self.services[incoming.service].ways_out(incoming))

    def reach(self, interfaces: Iterable[Interface]) -> tuple[set[str], set[LinkEnd]]:
        """Names of the services that packets from `interfaces` enter, and every end that they come to."""
        ends: set[LinkEnd] = set()
        unused = {name: set(service.ports) for name, service in self.services.items()}  # ports not yet left by
        waiting = [peer for interface in interfaces if (peer := self.peer(interface)) is not None]
        while waiting:
            end = waiting.pop()
            if end in ends:
                continue
            ends.add(end)
            if not isinstance(end, Port) or end.service not in unused:
                continue
            out = unused[end.service] & set(self.ways_out(end))
            unused[end.service] -= out
            waiting += [peer for port in out if (peer := self.peer(port)) is not None]
        return {end.service for end in ends if isinstance(end, Port)}, ends


def _check_loops(graph: _Graph, report: Report) -> set[str]:
    """Report each link that closes a circle of services none of which ends a packet's circling; return the services."""
    forest: dict[str, list[str]] = {
        name: [] for name, instance in graph.services.items() if not instance.service.breaks_loops
    }
    looping: set[str] = set()
    for link in graph.links:
        first, second = link.ends
        if not (isinstance(first, Port) and isinstance(second, Port)):
            continue
        if first.service not in forest or second.service not in forest:
            continue
        circle = _path(forest, first.service, second.service)
        if circle:
            looping |= set(circle)
            _loop(graph, link, circle, report)
        else:
            forest[first.service].append(second.service)
            forest[second.service].append(first.service)
    return looping


def _path(forest: Mapping[str, Sequence[str]], start: str, goal: str) -> list[str]:
    """The way from `start` to `goal`, both included; empty where there is none."""
    came_from = {start: start}
    waiting = [start]
    while waiting and goal not in came_from:
        here = waiting.pop()
        for following in forest[here]:
            if following not in came_from:
                came_from[following] = here
                waiting.append(following)
    if goal not in came_from:
        return []
    path = [goal]
    while path[-1] != start:
        path.append(came_from[path[-1]])
    return path[::-1]


def _loop(graph: _Graph, link: Link, circle: Sequence[str], report: Report) -> None:
    shown = " → ".join([*circle, circle[0]]) if len(circle) <= 12 else f"{len(circle)} services, `{circle[0]}` first"
    notes = (f"the circle: {shown}",)
    if all(graph.services[name].service.transparent for name in circle):
        message, label = "circle of services that never reaches an interface", "this link closes it"
        advice = "link one of its ports to an interface or to `host`"
        report.error("C215", message, link.span, label=label, notes=notes, help=advice)
    else:
        message, label = "loop: flooded frames would circle for ever", "this link closes it"
        advice = "remove one of the links, or put a router into the circle"
        report.error("C216", message, link.span, label=label, notes=notes, help=advice)


def _check_unreached(graph: _Graph, interfaces: Sequence[Interface], looping: set[str], report: Report) -> None:
    reached, _ = graph.reach(interfaces)
    for name, instance in graph.services.items():
        if name not in reached and name not in looping:
            label = "no way leads here from an interface"
            report.error("C221", f"no packet can reach service `{name}`", instance.span, label=label)


def _check_flooding_to_host(graph: _Graph, interfaces: Sequence[Interface], report: Report) -> None:
    """XDP can broadcast to devices or pass a frame up, not both; TC clones."""
    xdp = [interface for interface in interfaces if interface.mode.hook is Hook.XDP]
    for name in sorted(graph.reach(xdp)[0]):
        instance = graph.services.get(name)
        if instance is None or not instance.service.floods:
            continue
        to_host = [link for port in instance.ports if (link := _way_up(graph, port, {name}))]
        if to_host:  # one error is enough: the remedy is the same for all
            report.error(
                "C219",
                f"`{name}` floods, and XDP cannot send a copy to `host`",
                to_host[0].span,
                label="a copy of every flooded frame would have to go up here",
                notes=(f"frames reach `{name}` by XDP from {listed(_sources(graph, xdp, name), '`')}",),
                help="write `mode: tc` for these interfaces",
            )


def _way_up(graph: _Graph, port: Port, passed: set[str]) -> Link | None:
    """The link to the host that frames leaving by `port` come to, also through services that only pass them on."""
    end = graph.peer(port)
    if isinstance(end, Host):
        return graph.link[port]
    instance = graph.services.get(end.service) if isinstance(end, Port) and end.service not in passed else None
    if instance is None or not instance.service.transparent:
        return None
    ways = (_way_up(graph, other, passed | {instance.name}) for other in instance.ports if other != end)
    return next((way for way in ways if way), None)


def _sources(graph: _Graph, interfaces: Iterable[Interface], service: str) -> list[str]:
    return [interface.name for interface in interfaces if service in graph.reach([interface])[0]]


def _check_namespaces(graph: _Graph, interfaces: Sequence[Interface], report: Report) -> None:
    """bpf_redirect() looks an ifindex up in the namespace of the skb's own device; XDP's devmap holds the device."""
    tc = [interface for interface in interfaces if interface.mode.hook is Hook.TC]
    for netns in dict.fromkeys(interface.netns for interface in tc):
        sources = [interface for interface in tc if interface.netns == netns]
        _, ends = graph.reach(sources)
        for target in interfaces:
            if target in ends and target.netns != netns:
                here, there = _namespace(netns), _namespace(target.netns)
                report.error(
                    "C220",
                    f"TC cannot redirect to `{target.name}`, which is in another network namespace",
                    graph.link[target].span,
                    label=f"from {here} into {there}",
                    notes=(f"it would be reached from {listed([i.name for i in sources], '`')}, where `mode` is tc",),
                    help="use `mode: native` or `generic` there",
                )


def _namespace(netns: str | None) -> str:
    return f"namespace `{netns}`" if netns else "the namespace that applies the chain"


def _check_tail_calls(graph: _Graph, interfaces: Sequence[Interface], report: Report) -> None:
    """Report the link of the 34th tail call, where packets from an interface can pass so many services in a row."""
    farther = _Farthest(graph)
    reported: set[Span] = set()
    for interface in interfaces:
        end = graph.peer(interface)
        if not isinstance(end, Port):
            continue
        calls = farther.calls(end)
        if calls <= MAX_TAIL_CALLS:
            continue
        span = farther.link(end, MAX_TAIL_CALLS + 1).span
        if span not in reported:
            reported.add(span)
            message = f"{calls} tail calls in a row, the kernel follows {MAX_TAIL_CALLS}"
            notes = (f"counted from interface `{interface.name}`, one for each link between two services",)
            label = f"number {MAX_TAIL_CALLS + 1}, which would not be followed"
            report.error("C217", message, span, label=label, notes=notes)


class _Farthest:
    """The longest way on from an incoming port, in links between services. Ways that lead back are not followed."""

    def __init__(self, graph: _Graph) -> None:
        self._graph = graph
        self._calls: dict[Port, int] = {}
        self._next: dict[Port, tuple[Link, Port]] = {}

    def calls(self, start: Port) -> int:
        """Depth-first with a stack of its own: a chain may be longer than Python's recursion is deep."""
        stack = [(start, self._following(start))]
        entered = {start}
        while stack:
            port, following = stack[-1]
            step = next(following, None)
            if step is None:
                stack.pop()
                self._finish(port)
            elif step[1] not in self._calls and step[1] not in entered:
                entered.add(step[1])
                stack.append((step[1], self._following(step[1])))
        return self._calls[start]

    def link(self, start: Port, number: int) -> Link:
        """The link that the `number`-th tail call of the longest way goes over."""
        port = start
        for _ in range(number):
            link, port = self._next[port]
        return link

    def _following(self, incoming: Port) -> Iterator[tuple[Link, Port]]:
        for port in self._graph.ways_out(incoming):
            peer = self._graph.peer(port)
            if isinstance(peer, Port):
                yield self._graph.link[port], peer

    def _finish(self, port: Port) -> None:
        ways = [step for step in self._following(port) if step[1] in self._calls]
        farthest = max(ways, key=lambda step: self._calls[step[1]], default=None)
        self._calls[port] = 0
        if farthest is not None:
            self._calls[port] = self._calls[farthest[1]] + 1
            self._next[port] = farthest
