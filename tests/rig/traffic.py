"""What a person would start to see whether a network works: ping, and a UDP or TCP exchange."""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import struct
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from runtime.netns import entered

from .lab import Namespace

ICMP_ECHO, ICMP_ECHOREPLY = 8, 0
ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY = 128, 129
_ECHO = struct.Struct("!BBHHH")
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
_EXTENDED_ERROR_BYTES = 16  # struct sock_extended_err, before the address of whom it comes from


@dataclass(frozen=True, slots=True)
class PingResult:
    """How many echo requests went out and how many were answered; times are round trips in milliseconds."""

    sent: int
    times_ms: tuple[float, ...]

    @property
    def received(self) -> int:
        return len(self.times_ms)

    @property
    def lost(self) -> int:
        return self.sent - self.received


def ping(
    namespace: Namespace, target: str, *, count: int = 3, interval: float = 0.01, timeout: float = 1.0, source: str = ""
) -> PingResult:
    """Sends `count` echo requests, each when the one before was answered or lost after `timeout` seconds."""
    with _EchoSocket(namespace, target, source) as echo:
        times = []
        for sequence in range(count):
            if sequence:
                time.sleep(interval)
            if (elapsed := echo.exchange(sequence, timeout)) is not None:
                times.append(elapsed * 1000)
    return PingResult(count, tuple(times))


@dataclass(slots=True)
class BackgroundPing:
    """A ping every `interval` seconds from a thread of its own, for the length of a `with` block."""

    namespace: Namespace
    target: str
    interval: float = 0.005
    result: PingResult = PingResult(0, ())
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> BackgroundPing:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread
        self._thread.join()

    def _run(self) -> None:
        sent, times = 0, []
        with _EchoSocket(self.namespace, self.target, "") as echo:
            while not self._stop.is_set():
                elapsed = echo.exchange(sent & 0xFFFF, timeout=0.5)
                sent += 1
                if elapsed is not None:
                    times.append(elapsed * 1000)
                self.result = PingResult(sent, tuple(times))
                self._stop.wait(self.interval)


class _EchoSocket:
    """A raw ICMP or ICMPv6 socket in a namespace."""

    def __init__(self, namespace: Namespace, target: str, source: str) -> None:
        self._v6 = ipaddress.ip_address(target).version == 6
        self._target = (target, 0)
        self._identifier = int.from_bytes(os.urandom(2), "big")
        family = socket.AF_INET6 if self._v6 else socket.AF_INET
        protocol = socket.IPPROTO_ICMPV6 if self._v6 else socket.IPPROTO_ICMP
        with entered(namespace.name):
            self._socket = socket.socket(family, socket.SOCK_RAW, protocol)
            if source:
                self._socket.bind((source, 0))

    def __enter__(self) -> _EchoSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self, sequence: int, timeout: float) -> float | None:
        """Seconds until the answer came, or None."""
        started = time.monotonic()
        self._socket.sendto(self._request(sequence), self._target)
        while (left := started + timeout - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                message = self._socket.recv(2048)
            except TimeoutError:
                return None
            if self._answers(message, sequence):
                return time.monotonic() - started
        return None

    def _request(self, sequence: int) -> bytes:
        kind = ICMPV6_ECHO_REQUEST if self._v6 else ICMP_ECHO
        payload = bytes(range(56))
        unsummed = _ECHO.pack(kind, 0, 0, self._identifier, sequence) + payload
        checksum = 0 if self._v6 else internet_checksum(unsummed)  # the kernel sums ICMPv6 itself
        return _ECHO.pack(kind, 0, checksum, self._identifier, sequence) + payload

    def _answers(self, message: bytes, sequence: int) -> bool:
        if not self._v6:
            message = message[(message[0] & 0x0F) * 4 :]  # an IPv4 raw socket delivers the IP header too
        kind, _, _, identifier, number = _ECHO.unpack_from(message)
        reply = ICMPV6_ECHO_REPLY if self._v6 else ICMP_ECHOREPLY
        return bool((kind, identifier, number) == (reply, self._identifier, sequence))


def internet_checksum(content: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(content) + 1) // 2}H", content + b"\0" * (len(content) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_socket(namespace: Namespace, address: str, port: int = 0) -> socket.socket:
    """A bound UDP socket in a namespace."""
    return _bound(namespace, socket.SOCK_DGRAM, address, port)


def send_udp(namespace: Namespace, source: str, target: tuple[str, int], payloads: list[bytes]) -> None:
    """Sends datagrams from address `source`."""
    with udp_socket(namespace, source) as sender:
        for payload in payloads:
            sender.sendto(payload, target)


def trace(namespace: Namespace, target: str, hops: int, timeout: float = 2.0) -> list[str]:
    """Who answers to UDP datagrams with TTL 1, 2, …, `hops`; an empty string where nobody does."""
    told = (told_of(namespace, target, ttl=ttl, timeout=timeout) for ttl in range(1, hops + 1))
    return [found.by if found else "" for found in told]


class Told(NamedTuple):
    """An ICMP error as a stack tells of it: type, code, and whom it is from."""

    type: int
    code: int
    by: str


def told_of(
    namespace: Namespace, target: str, *, ttl: int = 64, source: str = "", device: str = "", timeout: float = 10.0
) -> Told | None:
    """The ICMP error about one datagram (IP_RECVERR, ip(7)), None where there is none.

    A link-local `source` is one of `device`.
    """
    v6 = _family(target) == socket.AF_INET6
    level = socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP
    with (
        udp_socket(namespace, "::" if v6 else "0.0.0.0") if not source else _scoped(namespace, source, device) as sender
    ):
        sender.setsockopt(level, socket.IPV6_UNICAST_HOPS if v6 else socket.IP_TTL, ttl)
        sender.setsockopt(level, _IPV6_RECVERR if v6 else _IP_RECVERR, 1)
        sender.sendto(b"?", (target, 33434 + ttl))
        poll = select.poll()
        poll.register(sender, select.POLLERR)
        if not poll.poll(timeout * 1000):
            return None
        _, ancillary, _, _ = sender.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    (content,) = [
        content for found, kind, content in ancillary if found == level and kind in (_IP_RECVERR, _IPV6_RECVERR)
    ]
    offender = content[_EXTENDED_ERROR_BYTES:]
    return Told(content[5], content[6], str(ipaddress.ip_address(offender[8:24] if v6 else offender[4:8])))


def _scoped(namespace: Namespace, source: str, device: str) -> socket.socket:
    """A UDP socket with a link-local address of a device."""
    with entered(namespace.name):
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind((source, 0, 0, socket.if_nametoindex(device)))
    return made


def tcp_exchange(client: Namespace, server: Namespace, address: str, content: bytes, port: int = 9000) -> bytes:
    """What a server at `address` received over one TCP connection on which a client sent `content`."""
    received = bytearray()
    with _bound(server, socket.SOCK_STREAM, address, port) as listener:
        listener.listen(1)
        listener.settimeout(5)
        with entered(client.name):
            sender = socket.socket(_family(address), socket.SOCK_STREAM)
        sender.settimeout(5)
        with sender:
            sending = threading.Thread(target=_connect_and_send, args=(sender, (address, port), content))
            sending.start()
            connection, _ = listener.accept()
            connection.settimeout(5)
            with connection:
                while len(received) < len(content) and (piece := connection.recv(65536)):
                    received += piece
            sending.join()
    return bytes(received)


def iperf(client: Namespace, server: Namespace, address: str, size: int, timeout: float = 5.0) -> int:
    """Has iperf3 send `size` bytes over one TCP connection; how many the server had received when the client was done.

    Raises ConnectionError where it cannot connect within `timeout` seconds.
    """
    serving = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", address]
    sending = ["iperf3", "--client", address, "--bytes", str(size), "--json"]
    sending += ["--connect-timeout", str(int(timeout * 1000))]
    with entered(server.name):
        listener = subprocess.Popen(serving, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with listener:
        assert listener.stdout
        while "listening" not in (line := listener.stdout.readline()):
            assert line, "iperf3 does not listen"
        with entered(client.name):
            found = json.loads(subprocess.run(sending, stdout=subprocess.PIPE, text=True, check=False).stdout)
        listener.terminate()
    if "error" in found:
        raise ConnectionError(found["error"])
    return int(found["end"]["sum_received"]["bytes"])


def _connect_and_send(sender: socket.socket, target: tuple[str, int], content: bytes) -> None:
    sender.connect(target)
    sender.sendall(content)


def _bound(namespace: Namespace, kind: socket.SocketKind, address: str, port: int) -> socket.socket:
    with entered(namespace.name):
        made = socket.socket(_family(address), kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    return made


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
