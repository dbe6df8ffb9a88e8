"""Where bpffs is, mounted if need be; and in it the directory of all chains, which one of us at a time works in."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.trust import Distrust, distrust

from . import sys
from .lock import OnWait, deadline, lock

BPFFS = Path("/sys/fs/bpf")
BPFFS_VARIABLE = "BPFCHAIN_BPFFS"

_MOUNT_POINT = 4  # fields of /proc/self/mountinfo, before the ` - `


def bpffs_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The bpffs to use: as given, as BPFCHAIN_BPFFS says, or /sys/fs/bpf."""
    return Path(given or os.environ.get(BPFFS_VARIABLE) or BPFFS)


def ensure_bpffs(root: Path) -> None:
    """Mounts bpffs at `root` unless it is there. Raises `LoadFailed` (A110)."""
    if is_bpffs(root):
        return
    try:
        with _opened(root) as directory:  # the lock is on the directory below the mount: only one of us mounts
            lock(directory, deadline())
            if not is_bpffs(root):
                sys.mount("bpf", str(root), "bpf")
    except OSError as error:
        message = f"cannot mount bpffs at `{root}`: {error.strerror}"
        raise LoadFailed(Diagnostic("A110", message, help=f"as root: `{mount_command(root)}`")) from error


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies in a mounted bpffs."""
    wanted = f"{path.resolve()}/"
    best, found = 0, False
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted = before.split()[_MOUNT_POINT].replace("\\040", " ").rstrip("/") + "/"
        if wanted.startswith(mounted) and len(mounted) >= best:
            best, found = len(mounted), after.split()[0] == "bpf"
    return found


def mount_command(root: Path | str) -> str:
    """How root gives the caller a bpffs."""
    owner = "" if os.geteuid() == 0 else f"uid={os.geteuid()},gid={os.getegid()},"
    return f"mount -t bpf -o {owner}mode=0700 bpf {root}"


@contextlib.contextmanager
def locked(root: Path, on_wait: OnWait | None = None) -> Iterator[None]:
    """One apply or detach at a time on a host. Raises `LoadFailed` (A111) if another one takes too long.

    `on_wait` is called once if there is another one.
    """
    home = root / "bpfchain"
    until = deadline()
    while True:
        with _opened_home(home) as directory:
            lock(directory, until, on_wait)
            if _is_still(home, directory):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):  # not empty: chains run
                        home.rmdir()
                return


@contextlib.contextmanager
def _opened_home(home: Path) -> Iterator[int]:
    """The directory of all chains, made if it is not there: also if whoever had the lock before removes it just now."""
    while True:
        try:
            _make_home(home)
            directory = _open(home, os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        try:
            _require_trust(home, os.fstat(directory))
            yield directory
        finally:
            os.close(directory)
        return


def _make_home(home: Path) -> None:
    """Makes the directory of all chains, and looks whose it is: anybody may make one at the top of many a bpffs.

    Raises `LoadFailed`: A131 where it cannot be made or opened, A130 where it is a stranger's.
    """
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        _require_trust(home, home.lstat())
    except PermissionError as error:
        raise not_writable(home) from error
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        home.stat()  # where it is gone, that is the reason
        raise not_writable(home)


def _require_trust(home: Path, found: os.stat_result) -> None:
    """Raises `LoadFailed` (A130). A link is no directory: whoever made it can let it lead elsewhere later."""
    doubt = None if stat.S_ISDIR(found.st_mode) else Distrust("it is not a directory", mend="")
    doubt = doubt or distrust(found)
    if doubt:
        message = f"`{home}` is not trusted: {doubt.reason}"
        notes = ("it would hold everything that forwards packets",)
        mend = f", or `{doubt.mend} {home}`" if doubt.mend else ""
        raise LoadFailed(Diagnostic("A130", message, notes=notes, help=f"remove it{mend}"))


def not_writable(home: Path) -> LoadFailed:
    """The refusal (A131) of a bpffs that the caller may not write to."""
    message = f"cannot keep anything in `{home.parent}`: {os.strerror(errno.EACCES)}"
    help_text = f"as root: `{mount_command('DIRECTORY')}`, then `--bpffs DIRECTORY`"
    return LoadFailed(Diagnostic("A131", message, help=help_text))


def _open(directory: Path, flags: int = 0) -> int:
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags)


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = _open(directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the directory that was locked has not been removed meanwhile by whoever had the lock before."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
