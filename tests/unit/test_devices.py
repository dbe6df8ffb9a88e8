"""Interfaces that share a device: the service that the compiler puts there, and what of it a manifest says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from compiler.build import lowered
from compiler.ir import ChainIR
from compiler.lower import lower
from compiler.resolve import resolve
from compiler.source import read
from compiler.topology import MAX_TAIL_CALLS
from compiler.verify import verify
from schemas.chains import examples
from schemas.diagnostic import InvalidChain

BRIDGE: dict[str, Any] = {"kind": "bridge", "ports": {"a": {}, "b": {}}}


def ir(interfaces: dict[str, Any], links: list[list[str]], **services: Any) -> ChainIR:
    text = yaml.safe_dump(
        {"chain": "edge", "interfaces": interfaces, "services": services, "links": links}, sort_keys=False
    )
    return verify(lower(resolve(read("edge.yaml", text))), "lower")


def two(device: str, first: str = "office", second: str = "lab", **others: Any) -> ChainIR:
    """Two VLANs of a device, bridged."""
    interfaces = {first: {"device": device, "vlan": 10, **others}, second: {"device": device, "vlan": 20}}
    return ir(interfaces, [[first, "br0.a"], [second, "br0.b"]], br0=BRIDGE)


def test_a_device_of_its_own_stays_as_it_is() -> None:
    found = lowered(examples()["guarded-bridge"])
    assert found.shared == ()
    assert "vlans" not in {service.kind for service in found.services}


def test_a_service_sorts_the_frames_of_a_shared_device() -> None:
    found = two("eth0")
    assert [(interface.name, interface.device) for interface in found.interfaces] == [("eth0", "eth0")]
    assert [(share.name, share.vlan) for share in found.shared] == [("office", 10), ("lab", 20)]
    assert [(service.name, service.kind) for service in found.services] == [("eth0", "vlans"), ("br0", "bridge")]
    assert [(port.service, port.name, port.peer) for port in found.ports] == [
        ("eth0", "wire", "interface eth0"),
        ("eth0", "office", "br0.a"),
        ("eth0", "lab", "br0.b"),
        ("br0", "a", "eth0.office"),
        ("br0", "b", "eth0.lab"),
    ]
    assert [(attach.interface, attach.program) for attach in found.attach] == [("eth0", "eth0__wire__xdp")]


def test_one_vlan_never_leads_to_another() -> None:
    """Out of an interface of a shared device there is only the device."""
    found = two("eth0")
    ways = {
        program.name: [edge.port for edge in program.edges] for program in found.programs if program.service == "eth0"
    }
    assert ways == {
        "eth0__wire__xdp": ["office", "lab"],
        "eth0__office__xdp": ["wire"],
        "eth0__lab__xdp": ["wire"],
    }


@pytest.mark.parametrize(
    ("device", "names", "expected", "wire"),
    [
        ("eth0", ("office", "lab"), "eth0", "wire"),
        ("br.100", ("office", "lab"), "br-100", "wire"),
        ("Ünter0", ("office", "lab"), "nter0", "wire"),
        ("0", ("office", "lab"), "device-0", "wire"),
        ("%%", ("office", "lab"), "device", "wire"),
        ("eth0", ("eth0", "lab"), "eth0-2", "wire"),
        ("br0", ("br0-2", "wire"), "br0-3", "wire-2"),
    ],
)
def test_names_are_free(device: str, names: tuple[str, str], expected: str, wire: str) -> None:
    found = two(device, *names)
    assert (found.interfaces[0].name, found.services[0].name, found.ports[0].name) == (expected, expected, wire)


def test_tail_calls_through_it_count() -> None:
    """In and out by the service are two more than the chain file shows, and the kernel counts them."""
    tubes = {f"t{number}": {"kind": "ddos"} for number in range(MAX_TAIL_CALLS)}
    links = [["in", "t0.outside"], *([f"t{n}.inside", f"t{n + 1}.outside"] for n in range(MAX_TAIL_CALLS - 1))]
    links.append([f"t{MAX_TAIL_CALLS - 1}.inside", "out"])
    plain = {"in": {"device": "eth0"}, "out": {"device": "eth1"}}
    assert len(ir(plain, links, **tubes).tail_slots) == 2 * (MAX_TAIL_CALLS - 1)
    with pytest.raises(InvalidChain) as caught:
        ir({"in": {"device": "eth0", "vlan": 10}, "out": {"device": "eth1", "vlan": 10}}, links, **tubes)
    (found,) = {diagnostic.code for diagnostic in caught.value.diagnostics}
    assert found == "C217"
