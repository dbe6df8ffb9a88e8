"""Chains on a machine under test: compiled, applied, looked at from the kernel's side, and gone without a trace."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import bpfchain
from runtime import info, sys
from runtime.apply import Applied, apply, detach, plan
from runtime.bpffs import bpffs_root
from runtime.migrate import Table
from runtime.netns import entered
from runtime.pin import chain_pins, chains
from runtime.plan import Plan
from runtime.plan_text import plan_data
from runtime.services.bridge_fdb import layout_of
from runtime.status import ChainStatus, status, status_data
from runtime.steps import OnStep
from runtime.uapi import Cmd
from schemas.compiled import CompiledChain
from schemas.diagnostic import Diagnostic, LoadFailed
from tests.rig.lab import Namespace, unique_name
from tests.rig.network import Network
from tests.schemas import conforms

A, B, C = (bytes.fromhex(f"02aa0000000{digit}") for digit in "abc")


def frame(source: bytes, destination: bytes, length: int = 60) -> bytes:
    return destination + source + b"\x88\xb5" + bytes(length - 14)


def ipv4(source: str, length: int = 60) -> bytes:
    """A UDP frame from A to B with this source address."""
    address = bytes(int(part) for part in source.split("."))
    header = bytes.fromhex("4500002e000000004011") + bytes(2) + address + bytes.fromhex("0a000002")
    return (B + A + b"\x08\x00" + header).ljust(length, b"\0")


def bridge(mode: str = "native", ports: tuple[str, ...] = ("p1", "p2"), **fdb: Any) -> dict[str, Any]:
    """A bridge of these ports, each linked to the device of its name."""
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ports},
        "services": {"br0": {"kind": "bridge", **({"fdb": fdb} if fdb else {}), "ports": {port: {} for port in ports}}},
        "links": [[f"br0.{port}", port] for port in ports],
    }


def guard(mode: str = "native", sources: tuple[str, ...] = ("198.51.100.0/24",), **more: Any) -> dict[str, Any]:
    """A ddos service from device p1 (outside) to device p2."""
    return {
        "mode": mode,
        "interfaces": {"p1": {"device": "p1"}, "p2": {"device": "p2"}},
        "services": {"guard": {"kind": "ddos", "block": {"sources": list(sources)}, **more}},
        "links": [["p1", "guard.outside"], ["guard.inside", "p2"]],
    }


def guarded_bridge(mode: str = "native") -> dict[str, Any]:
    """A bridge of p1 and p2 with a guard before its third port: floods need an internal link."""
    services = {
        "br0": {"kind": "bridge", "ports": {"p1": {}, "p2": {}, "up": {}}},
        "guard": {"kind": "ddos", "block": {"sources": ["198.51.100.0/24"]}},
    }
    links = [["br0.p1", "p1"], ["br0.p2", "p2"], ["br0.up", "guard.inside"], ["guard.outside", "p3"]]
    return {
        "mode": mode,
        "interfaces": {port: {"device": port} for port in ("p1", "p2", "p3")},
        "services": services,
        "links": links,
    }


def changed(aging: str = "90s") -> dict[str, Any]:
    """The guarded bridge with a constant changed in two programs, and another mode of an interface."""
    chain = guarded_bridge()
    chain["services"]["br0"]["fdb"] = {"aging": aging}
    chain["interfaces"]["p2"]["mode"] = "generic"
    return chain


@dataclass(frozen=True, slots=True)
class Footprint:
    """Ids of everything that a chain has in the kernel."""

    progs: frozenset[int] = frozenset()
    maps: frozenset[int] = frozenset()
    links: frozenset[int] = frozenset()
    btfs: frozenset[int] = frozenset()

    def left(self) -> Footprint:
        """What of it is still there."""
        return Footprint(
            _present(Cmd.BPF_PROG_GET_NEXT_ID, self.progs),
            _present(Cmd.BPF_MAP_GET_NEXT_ID, self.maps),
            _present(Cmd.BPF_LINK_GET_NEXT_ID, self.links),
            _present(Cmd.BPF_BTF_GET_NEXT_ID, self.btfs),
        )

    def __sub__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.progs - other.progs, self.maps - other.maps, self.links - other.links, self.btfs - other.btfs
        )

    def __or__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.progs | other.progs, self.maps | other.maps, self.links | other.links, self.btfs | other.btfs
        )


def _present(cmd: Cmd, wanted: frozenset[int]) -> frozenset[int]:
    """Those of these ids that the kernel has: the next one after the number before it is the id itself."""
    found = set()
    for number in wanted:
        attr = sys.IdAttr(start_id=number - 1)
        try:
            sys.syscall(cmd, attr)
        except sys.SyscallFailed as failure:
            if failure.errno != errno.ENOENT:  # there is none that is so high
                raise
        if attr.next_id == number:
            found.add(number)
    return frozenset(found)


NOTHING = Footprint()


@dataclass(frozen=True, slots=True)
class Host:
    """One chain's life on a machine."""

    namespace: Namespace
    folder: Path
    name: str

    def compiled(self, chain: Mapping[str, Any]) -> CompiledChain:
        file = self.folder / "chain.yaml"
        file.write_text(yaml.safe_dump({"chain": self.name, **chain}, sort_keys=False))
        return bpfchain.compile(file).chain

    def apply(
        self,
        chain: Mapping[str, Any] | CompiledChain,
        on_step: OnStep | None = None,
        *,
        accept_state_loss: bool = False,
    ) -> Applied:
        wanted = chain if isinstance(chain, CompiledChain) else self.compiled(chain)
        with entered(self.namespace.name):
            found = apply(wanted, on_step=on_step, log_directory=self.folder, accept_state_loss=accept_state_loss)
        conforms("plan", plan_data(found.plan))
        return found

    def plan(self, chain: Mapping[str, Any] | CompiledChain) -> Plan:
        wanted = chain if isinstance(chain, CompiledChain) else self.compiled(chain)
        with entered(self.namespace.name):
            found = plan(wanted)
        conforms("plan", plan_data(found))
        return found

    def status(self) -> ChainStatus:
        with entered(self.namespace.name):
            found = status(self.name)
        conforms("status", {"format": 1, "chains": [status_data(found)]})
        return found

    def detach(self, on_step: OnStep | None = None) -> tuple[Diagnostic, ...]:
        with entered(self.namespace.name):
            return detach(self.name, on_step=on_step)

    def refused(self, chain: Mapping[str, Any] | CompiledChain) -> tuple[Diagnostic, ...]:
        """The diagnostics with which an apply fails."""
        try:
            self.apply(chain)
        except LoadFailed as failure:
            return failure.diagnostics
        raise AssertionError("it was applied")

    def generations(self) -> list[str]:
        """Directories in bpffs: what is running, and what was left."""
        return [generation.path.name for generation in chain_pins(bpffs_root(), self.name).generations()]

    def pins(self) -> set[str]:
        """Every path below the chain's generations."""
        generations = chain_pins(bpffs_root(), self.name).generations()
        return {str(path.relative_to(found.path)) for found in generations for path in found.path.rglob("*")}

    def footprint(self) -> Footprint:
        """What is pinned, and what the programs hold beside it (their data sections)."""
        progs, maps, links, btfs = set(), set(), set(), set()
        for generation in chain_pins(bpffs_root(), self.name).generations():
            for path in generation.pinned("programs"):
                found = info.prog_info(_opened(path))
                progs.add(found.id)
                maps |= set(found.map_ids)
                btfs.add(found.btf_id)
            maps |= {info.map_info(_opened(path)).id for path in generation.pinned("maps")}
            links |= {info.link_info(_opened(path)).id for path in generation.pinned("links")}
        return Footprint(frozenset(progs), frozenset(maps), frozenset(links), frozenset(btfs))

    def devices(self) -> set[str]:
        with self.namespace.netlink() as netlink:
            return {link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}

    def qdiscs(self) -> list[str]:
        """Kinds of the qdiscs that filters hang on."""
        with self.namespace.netlink() as netlink:
            kinds = [qdisc.get_attr("TCA_KIND") for qdisc in netlink.get_qdiscs()]
        return [kind for kind in kinds if kind in ("clsact", "ingress")]


def forwards(net: Network, *out: str) -> None:
    """A frame comes out of these ports, once, and of no other: by a bridge, from p1 to somebody it does not know."""
    net.send("p1", frame(A, B))
    assert net.arrivals(**dict.fromkeys(out, 1)) == {port: [frame(A, B)] for port in out}


def stations(machine: Host) -> dict[str, str]:
    """The port of every address in the filtering database of the bridge `br0`."""
    (generation,) = chain_pins(bpffs_root(), machine.name).generations()
    record = generation.read_record()
    assert record
    found = next(found for found in record.manifest.maps if found.name == "br0__fdb")
    ports = next(service.ports for service in record.manifest.services if service.name == "br0")
    layout = layout_of(Table(found, ports))
    assert layout
    with sys.obj_get(generation.map(found.name, found.layout)) as fd:
        known = list(layout.stations(dict(sys.map_entries(fd, 4, 64))))
    assert len({station.key for station in known}) == len(known)
    return {station.key.to_bytes(6, "little").hex(): ports[station.port] for station in known}


def _opened(path: Path) -> sys.Fd:
    return sys.obj_get(path)


@contextlib.contextmanager
def host(namespace: Namespace, folder: Path) -> Iterator[Host]:
    """A machine that runs nothing before and nothing after."""
    found = Host(namespace, folder, unique_name("live"))
    try:
        yield found
    finally:
        if found.name in chains(bpffs_root()):
            found.detach()


def descriptors() -> set[str]:
    """This process's BPF descriptors."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if "bpf" in target:
                found.add(f"{number} {target}")
    return found
