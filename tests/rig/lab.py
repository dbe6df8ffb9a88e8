"""Network namespaces and veth pairs between them, gone after their `with` block or after the death of its process."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyroute2

from runtime.apply import detach
from runtime.bpffs import bpffs_root
from runtime.netns import NETNS_DIRECTORY, entered
from runtime.pin import chains
from schemas.diagnostic import LoadFailed

from .ethtool import Feature, set_feature
from .waiting import PATIENCE_SECONDS, until

_T = TypeVar("_T")

_OWNED = re.compile(r"bpfchain-[a-z]+-([0-9]+)-[0-9]+(-.+)?")
"""Names of our chains, `bpfchain-PURPOSE-PID-SERIAL`, and namespaces, with `-LABEL`: so a dead process's are known."""

_serial = itertools.count(1)

pyroute2.config.default_communicate_timeout = int(PATIENCE_SECONDS)
"""Making a namespace waits for those that are being taken apart: two seconds, as it has by itself, may be too few."""

# Frames that nobody asked for make packet tests random: no router solicitations, no link-local addresses, no DAD.
_QUIET = {
    "net/ipv6/conf/default/accept_ra": "0",
    "net/ipv6/conf/default/router_solicitations": "0",
    "net/ipv6/conf/default/addr_gen_mode": "1",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/disable_ipv6": "1",
}

# Several networks share a cable here: a stack takes what arrives, whichever way it would answer.
_TRUSTING = {"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0"}


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace; `label` is what people call it."""

    label: str
    name: str

    def run(self, function: Callable[[], _T]) -> _T:
        """The result of `function`, called by this thread inside the namespace."""
        with entered(self.name):
            return function()

    @contextlib.contextmanager
    def netlink(self) -> Iterator[Any]:
        """A netlink socket of the namespace."""
        with entered(self.name):
            netlink = pyroute2.IPRoute(ext_ack=True)
        with netlink:
            yield netlink

    def sysctl(self, key: str, value: str) -> None:
        """Sets `net/ipv6/conf/eth0/disable_ipv6`: /proc/sys/net is that of the thread's namespace."""
        with entered(self.name):
            Path("/proc/sys", key).write_text(value)


@dataclass(frozen=True, slots=True)
class Device:
    """One end of a veth pair."""

    namespace: Namespace
    name: str
    ifindex: int
    mac: str

    @property
    def mac_bytes(self) -> bytes:
        return bytes.fromhex(self.mac.replace(":", ""))


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair: `port` is in the machine under test, `station` is the neighbour at the far end."""

    port: Device
    station: Device


@dataclass(slots=True)
class Lab:
    """Owns every namespace that it makes. `purpose` is part of their names."""

    purpose: str = "test"
    namespaces: list[Namespace] = field(default_factory=list)
    _macs: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __enter__(self) -> Lab:
        remove_leftovers()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the namespaces, and with them all that is in them."""
        while self.namespaces:
            pyroute2.netns.remove(self.namespaces.pop().name)

    def namespace(self, label: str) -> Namespace:
        """A new namespace with its loopback up and no frame sent unasked."""
        namespace = Namespace(label, f"{unique_name(self.purpose)}-{label}")
        pyroute2.netns.create(namespace.name)
        self.namespaces.append(namespace)
        for key, value in {**_QUIET, **_TRUSTING}.items():
            namespace.sysctl(key, value)
        with namespace.netlink() as netlink:
            netlink.link("set", index=1, state="up")
        return namespace

    def cable(
        self,
        port: tuple[Namespace, str],
        station: tuple[Namespace, str],
        addresses: Sequence[str] = (),
        *,
        offloads: bool = False,
    ) -> Cable:
        """A veth pair that a chain can use: both ends up, `addresses` (`10.0.0.1/24`) on the station.

        GRO goes on at the station after both ends are up: without it, or switched on earlier, a frame that XDP
        redirects to the port vanishes without an error. Without `offloads` no frame is left for
        the device to finish, which XDP cannot do; the TC hook can.
        """
        (port_namespace, port_name), (station_namespace, station_name) = port, station
        port_mac, station_mac = self._mac(), self._mac()
        with port_namespace.netlink() as netlink:
            netlink.link(
                "add",
                ifname=port_name,
                kind="veth",
                address=port_mac,
                peer={"ifname": station_name, "address": station_mac, "net_ns_fd": station_namespace.name},
            )
        ends = Cable(
            Device(port_namespace, port_name, _bring_up(port_namespace, port_name), port_mac),
            Device(station_namespace, station_name, _bring_up(station_namespace, station_name), station_mac),
        )
        for device in (ends.port, ends.station):
            _wait_until_it_sends(device)
            for feature in () if offloads else (Feature.TX_CHECKSUM, Feature.TSO, Feature.GSO):
                set_feature(device.namespace.name, device.name, feature, on=False)
            set_feature(device.namespace.name, device.name, Feature.GRO, on=True)
        for address in addresses:
            self.address(ends.station, address)
        return ends

    def address(self, device: Device, address: str) -> None:
        """Gives the device's own stack an address, `10.0.0.1/24` or `fd00::1/64`."""
        interface = ipaddress.ip_interface(address)
        if interface.version == 6:
            device.namespace.sysctl(f"net/ipv6/conf/{device.name}/disable_ipv6", "0")
        with device.namespace.netlink() as netlink:
            netlink.addr("add", index=device.ifindex, address=str(interface.ip), prefixlen=interface.network.prefixlen)

    def _mac(self) -> str:
        """The next address of a small range of our own (locally administered)."""
        return "02:00:00:00:" + next(self._macs).to_bytes(2, "big").hex(":")


def unique_name(purpose: str) -> str:
    """A name that nobody else uses, for a chain or for the beginning of a namespace's."""
    return f"bpfchain-{purpose}-{os.getpid()}-{next(_serial)}"


def remove_leftovers() -> None:
    """Removes the chains and namespaces of processes that died before they could.

    Chains go first, while the namespaces that they are attached in can still be entered.
    """
    for name in filter(_is_orphan, chains(bpffs_root())):
        with _unless_gone("A109"):
            detach(name)
    for path in NETNS_DIRECTORY.glob("bpfchain-*"):
        if _is_orphan(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process of the same run was faster
                pyroute2.netns.remove(path.name)


def _is_orphan(name: str) -> bool:
    owned = _OWNED.fullmatch(name)
    return owned is not None and not Path("/proc", owned[1]).exists()


@contextlib.contextmanager
def _unless_gone(code: str) -> Iterator[None]:
    """Passes over the refusal `code`, which says that another process was faster."""
    try:
        yield
    except LoadFailed as refusal:
        if [diagnostic.code for diagnostic in refusal.diagnostics] != [code]:
            raise


def _bring_up(namespace: Namespace, name: str) -> int:
    """Sets the device up; returns its ifindex."""
    with namespace.netlink() as netlink:
        (index,) = netlink.link_lookup(ifname=name)
        netlink.link("set", index=index, state="up")
    return int(index)


def _wait_until_it_sends(device: Device) -> None:
    """Waits for the kernel to notice that there is a carrier: until then it drops what is sent, without an error.

    The link watch does that in its own time, and gives the device its queue then (net/core/link_watch.c, dev_activate).
    """
    with device.namespace.netlink() as netlink:

        def sends() -> bool:
            (link,) = netlink.get_links(device.ifindex)
            return bool(link.get("operstate") == "UP" and link.get("qdisc") != "noop")

        until(sends, lambda: f"{device.name} in {device.namespace.name} has no carrier")
