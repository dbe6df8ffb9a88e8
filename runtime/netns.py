"""The name of a network namespace in, the calling thread inside it for the length of a `with` block."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from schemas.diagnostic import Diagnostic, LoadFailed

from . import sys

NETNS_DIRECTORY = Path("/run/netns")
"""Where `ip netns` and pyroute2 keep named namespaces."""


def open_netns(name: str) -> sys.Fd:
    """A descriptor of the network namespace `name`. Raises `LoadFailed` (L150) where there is none."""
    if not name or "/" in name or name in (".", ".."):
        raise LoadFailed(Diagnostic("L150", f"`{name}` is not a name of a network namespace"))
    try:
        return sys.Fd(os.open(NETNS_DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        present = ", ".join(sorted(path.name for path in NETNS_DIRECTORY.glob("*"))) or "none"
        message = f"there is no network namespace `{name}`"
        raise LoadFailed(Diagnostic("L150", message, notes=(f"namespaces here: {present}",))) from None
    except OSError as error:
        raise LoadFailed(Diagnostic("L151", f"cannot open network namespace `{name}`: {error.strerror}")) from error


def current_netns() -> sys.Fd:
    """A descriptor of the calling thread's own network namespace."""
    return sys.Fd(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))


@contextlib.contextmanager
def entered(name: str | None) -> Iterator[None]:
    """Runs the block in network namespace `name` (None: where the thread is already).

    Only the calling thread moves, and only its network namespace: mounts stay, so bpffs and /sys remain those of the
    caller (`ip netns exec` would hide bpffs behind a new /sys). Raises `LoadFailed` (L150, L151).
    """
    if name is None:
        yield
        return
    with current_netns() as home, open_netns(name) as netns:
        _enter(netns, name)
        try:
            yield
        finally:
            # A thread that cannot return would go on in the wrong network: let that error out, whatever else happened.
            sys.setns(home)


def _enter(netns: sys.Fd, name: str) -> None:
    try:
        sys.setns(netns)
    except sys.SyscallFailed as failure:
        reason = "it is not one" if failure.errno == errno.EINVAL else failure.strerror
        ways_on = "it takes CAP_SYS_ADMIN; or start bpfchain inside of the namespace and leave `netns` out"
        help_text = ways_on if failure.errno == errno.EPERM else ""
        message = f"cannot enter network namespace `{name}`: {reason}"
        raise LoadFailed(Diagnostic("L151", message, help=help_text)) from failure
