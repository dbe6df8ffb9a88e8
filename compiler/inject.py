"""A chain whose control planes send frames into it in, the programs, slots and links that take them out.

A frame goes into a veth pair with a label that names a port (compiler/bpf/inject.h). At the pair's other end a
program takes the label off and tail-calls the port's own one, so that the frame takes the way of one that arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from schemas.manifest import Hook
from schemas.slow_path import INJECT_LINK

from .ir import Injector, InternalLink, MapDef, Program, ProgramName, TailSlot
from .maps import links_map
from .model import Chain, Port, ServiceInstance


class Injection(Struct, frozen=True):
    """What the ways into a chain add to it; nothing where no control plane needs one."""

    injectors: tuple[Injector, ...] = ()
    maps: tuple[MapDef, ...] = ()
    slots: tuple[TailSlot, ...] = ()
    links: tuple[InternalLink, ...] = ()
    ways: Mapping[ProgramName, str] = {}  # by program: the link that its frames come by


def inject(chain: Chain, programs: Iterable[Program], origins: Mapping[tuple[Port, Hook], str]) -> Injection:
    """A way to every port's program. `origins` names an interface that each (port, hook) has packets from."""
    users = [service for service in chain.services if _needs_injection(chain, service)]
    if not users:
        return Injection()
    groups: dict[tuple[Hook, str | None], list[Program]] = {}
    interfaces = {interface.name: interface for interface in chain.interfaces}
    for program in programs:
        origin = interfaces[origins[program.instance.port(program.port), program.hook]]
        groups.setdefault((program.hook, origin.netns if program.hook is Hook.TC else None), []).append(program)
    injectors, maps, slots, links = [], [], [], []
    ways: dict[ProgramName, str] = {}
    for name, (hook, _), members in _named(groups):
        first = members[0]
        array = f"inject_{name.replace('.', '_')}_ports"
        injector = Injector(f"inject_{name.replace('.', '_')}", users[0], hook, array, users[0].span)
        injectors.append(injector)
        maps.append(links_map(array, "BPF_MAP_TYPE_PROG_ARRAY", "__u32", 4, len(members), injector.span))
        slots += [TailSlot(array, index, member.name, member.span) for index, member in enumerate(members)]
        beside = origins[first.instance.port(first.port), hook]
        links.append(InternalLink(f"{INJECT_LINK}{name}", hook, injector.name, beside))
        ways |= dict.fromkeys((member.name for member in members), links[-1].name)
    return Injection(tuple(injectors), tuple(maps), tuple(slots), tuple(links), ways)


def _needs_injection(chain: Chain, service: ServiceInstance) -> bool:
    """Whether its control plane lets frames arrive at ports, or sends them out of a port that leads to another one."""
    if service.control is None:
        return False
    return service.service.injects or any(isinstance(chain.peer(port), Port) for port in service.ports)


def _named(
    groups: Mapping[tuple[Hook, str | None], list[Program]],
) -> Iterator[tuple[str, tuple[Hook, str | None], list[Program]]]:
    """`xdp`, `tc`, and for further namespaces `tc.2`."""
    seen = dict.fromkeys(Hook, 0)
    for key, members in groups.items():
        seen[key[0]] += 1
        yield key[0] if seen[key[0]] == 1 else f"{key[0]}.{seen[key[0]]}", key, members
