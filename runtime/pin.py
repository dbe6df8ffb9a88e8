"""Where a running chain is found: the layout of bpffs, and the record of each generation in it.

    /sys/fs/bpf/bpfchain/CHAIN/trial                    what is being tried, and what to go back to (trial.py)
    /sys/fs/bpf/bpfchain/CHAIN/generation-3/            -unfinished is appended until every hook runs it
        record                                          what was applied: a frozen array of one element
        counted                                         what was counted before, in maps that are gone: another one
        programs/NAME    maps/NAME-LAYOUT    links/NAME

A generation pins everything that it uses, also what it took over from the one before it: what is pinned twice lives
until the second pin goes. So a generation is dropped by removing its directory, and nothing else knows what is shared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.counters import Count
from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import Manifest
from schemas.manifest_json import from_data, parse, to_data
from schemas.trust import Distrust, distrust

from . import sys
from .home import here
from .info import map_info
from .tally import Tally
from .uapi import MapFlag, MapType

BPFFS = Path("/sys/fs/bpf")
BPFFS_VARIABLE = "BPFCHAIN_BPFFS"
LOCK_PATIENCE_SECONDS = 30.0
WAITS_FOR_LOCK = "wait for another apply or detach"
"""What is shown meanwhile."""

OnWait = Callable[[], None]
"""Called once where somebody else has to be waited for."""

_UNFINISHED = "-unfinished"
_GENERATION = re.compile(rf"generation-([0-9]{{1,9}})({_UNFINISHED})?")
_RECORD, _PENDING, _COUNTED = "record", "record-pending", "counted"
_INDEX = bytes(4)
_RECORD_FORMAT = 1
_MAX_RECORD_BYTES = 16 << 20
_MOUNT_POINT = 4  # fields of /proc/self/mountinfo, before the ` - `
_POLL_SECONDS = 0.02


def bpffs_root(given: str | os.PathLike[str] | None = None) -> Path:
    """The bpffs to use: as given, as BPFCHAIN_BPFFS says, or /sys/fs/bpf."""
    return Path(given or os.environ.get(BPFFS_VARIABLE) or BPFFS)


@dataclass(frozen=True, slots=True)
class Record:
    """What a generation was made from.

    `facts` are host-bound symbols' values, `home` the inode of the network namespace that it was applied in,
    `applied_at` is Unix time in seconds.
    """

    manifest: Manifest
    facts: Mapping[str, bytes]
    home: int
    applied_at: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted before a generation's own maps, by name; `maps` are ids of those still there that say so."""

    tally: Tally
    maps: frozenset[int]


def new_record(manifest: Manifest, facts: Mapping[str, bytes]) -> Record:
    """The record of what is applied here and now."""
    return Record(manifest, facts, here(), int(time.time()))


@dataclass(frozen=True, slots=True)
class GenerationPins:
    """The directory of one generation."""

    path: Path
    number: int
    finished: bool

    def program(self, name: str) -> Path:
        return self.path / "programs" / name

    def map(self, name: str, layout: str) -> Path:
        return self.path / "maps" / f"{name}-{layout}"

    def link(self, name: str) -> Path:
        """Names of internal links have dots, which bpffs does not take."""
        return self.path / "links" / name.replace(".", "__")

    def pinned(self, folder: str) -> tuple[Path, ...]:
        try:
            return tuple(sorted((self.path / folder).iterdir()))
        except FileNotFoundError:
            return ()

    def make(self) -> None:
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        self.path.mkdir(mode=0o700)
        for folder in ("programs", "maps", "links"):
            (self.path / folder).mkdir(mode=0o700)

    def write_record(self, record: Record, *, pending: bool = False) -> None:
        """Puts a record in place in one step; a pending one says what an update in place is about to make true."""
        self._write(_PENDING if pending else _RECORD, _encoded(record))

    def read_record(self, *, pending: bool = False) -> Record | None:
        """The record, or None where there is none. Raises `LoadFailed` (A112)."""
        content = self._read(_PENDING if pending else _RECORD)
        return None if content is None else _decoded(self.path, content)

    def write_counted(self, counted: Counted) -> None:
        """Puts what was counted before in place, in one step."""
        self._write(_COUNTED, _encoded_counted(counted))

    def read_counted(self) -> Counted | None:
        """What was counted before, or None where nobody has said yet. Raises `LoadFailed` (A112)."""
        content = self._read(_COUNTED)
        return None if content is None else _decoded_counted(self.path, content)

    def _write(self, name: str, content: bytes) -> None:
        write_frozen(self.path / name, content)

    def tidy(self) -> None:
        """Removes what was about to be put in place when somebody was interrupted."""
        for name in (_RECORD, _PENDING, _COUNTED):
            _fresh(self.path / name).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes | None:
        return read_frozen(self.path / name)

    def keep_pending(self) -> None:
        """The pending record becomes the record, in one step."""
        (self.path / _PENDING).rename(self.path / _RECORD)

    def forget_pending(self) -> None:
        (self.path / _PENDING).unlink(missing_ok=True)

    def finish(self) -> GenerationPins:
        """From now on this is the generation that runs."""
        final = self.path.with_name(f"generation-{self.number}")
        self.path.rename(final)
        return GenerationPins(final, self.number, finished=True)

    def remove(self) -> None:
        """Unpins everything; what nothing else holds is gone then. Half of it is no finished generation any more."""
        path = self.path.with_name(f"generation-{self.number}{_UNFINISHED}")
        if self.finished:
            self.path.rename(path)
        _remove_tree(path)


@dataclass(frozen=True, slots=True)
class ChainPins:
    """The directory of one chain."""

    path: Path

    @property
    def chain(self) -> str:
        return self.path.name

    def generations(self) -> tuple[GenerationPins, ...]:
        """All generations, finished or not, in their order."""
        found = []
        for path in self._paths():
            match = _GENERATION.fullmatch(path.name)
            if match:
                found.append(GenerationPins(path, int(match[1]), not match[2]))
        return tuple(sorted(found, key=lambda generation: (generation.number, generation.finished)))

    def _paths(self) -> tuple[Path, ...]:
        try:
            return tuple(self.path.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def unfinished(self, number: int) -> GenerationPins:
        """Where generation `number` is built."""
        return GenerationPins(self.path / f"generation-{number}{_UNFINISHED}", number, finished=False)

    def finished(self, number: int) -> GenerationPins:
        """Where generation `number` is once it runs."""
        return GenerationPins(self.path / f"generation-{number}", number, finished=True)

    def remove_if_empty(self) -> None:
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


def chain_pins(root: Path, chain: str) -> ChainPins:
    """The place of a chain, whether it runs or not."""
    return ChainPins(root / "bpfchain" / chain)


def chains(root: Path) -> tuple[str, ...]:
    """Names of all chains that have pins."""
    home = root / "bpfchain"
    try:
        return tuple(sorted(path.name for path in home.iterdir()))
    except (FileNotFoundError, NotADirectoryError):  # whoever takes the last chain away removes it
        return ()


@contextlib.contextmanager
def locked(root: Path, on_wait: OnWait | None = None) -> Iterator[None]:
    """One apply or detach at a time on a host. Raises `LoadFailed` (A111) if another one takes too long.

    `on_wait` is called once if there is another one.
    """
    home = root / "bpfchain"
    deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        with _opened_home(home) as directory:
            _lock(directory, deadline, on_wait)
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


def _lock(descriptor: int, deadline: float, on_wait: OnWait | None = None) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = f"another apply or detach has been running for {LOCK_PATIENCE_SECONDS:.0f} s"
                raise LoadFailed(
                    Diagnostic("A111", message, notes=_holder(descriptor), help="wait until it is done")
                ) from None
            if on_wait:
                on_wait()
                on_wait = None
            time.sleep(_POLL_SECONDS)
        else:
            return


def _holder(descriptor: int) -> tuple[str, ...]:
    """Who has the lock of a file, as far as /proc tells: `4: FLOCK ADVISORY WRITE 71 00:1c:9 0 EOF`."""
    found = os.fstat(descriptor)
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    holders = []
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if fields[1] == "FLOCK" and fields[5:6] == [file]:
            holders.append(fields[4])
    return tuple(f"it is process {pid}{_command(pid)}" for pid in holders)


def _command(pid: str) -> str:
    try:
        words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
    except OSError:  # it has just ended, or is in another PID namespace
        return ""
    return f", `{b' '.join(words).decode(errors='replace').strip()}`"


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the directory that was locked has not been removed meanwhile by whoever had the lock before."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def ensure_bpffs(root: Path) -> None:
    """Mounts bpffs at `root` unless it is there. Raises `LoadFailed` (A110)."""
    if is_bpffs(root):
        return
    try:
        with _opened(root) as directory:  # the lock is on the directory below the mount: only one of us mounts
            _lock(directory, time.monotonic() + LOCK_PATIENCE_SECONDS)
            if not is_bpffs(root):
                sys.mount("bpf", str(root), "bpf")
    except OSError as error:
        message = f"cannot mount bpffs at `{root}`: {error.strerror}"
        raise LoadFailed(Diagnostic("A110", message, help=f"as root: `{mount_command(root)}`")) from error


def mount_command(root: Path | str) -> str:
    """How root gives the caller a bpffs."""
    owner = "" if os.geteuid() == 0 else f"uid={os.geteuid()},gid={os.getegid()},"
    return f"mount -t bpf -o {owner}mode=0700 bpf {root}"


def is_bpffs(path: Path) -> bool:
    """Whether `path` lies in a mounted bpffs."""
    wanted = path.resolve()
    best, found = -1, False
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted = Path(before.split()[_MOUNT_POINT].replace("\\040", " "))
        if (wanted == mounted or mounted in wanted.parents) and len(mounted.parts) >= best:
            best, found = len(mounted.parts), after.split()[0] == "bpf"
    return found


# --- records --------------------------------------------------------------------------------------------------------


def write_frozen(path: Path, content: bytes) -> None:
    """Puts a frozen map with this content at a path, in the place of what is there, in one step."""
    fresh = _fresh(path)
    fresh.unlink(missing_ok=True)
    with _frozen(content) as fd:
        sys.obj_pin(fd, fresh)
    try:
        fresh.rename(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def forget_frozen(path: Path) -> None:
    """Removes what `write_frozen` put there, also where it was killed before that was done."""
    path.unlink(missing_ok=True)
    _fresh(path).unlink(missing_ok=True)


def _fresh(path: Path) -> Path:
    return path.with_name(f"{path.name}-fresh")


def read_frozen(path: Path) -> bytes | None:
    """What `write_frozen` put there, or None where there is nothing. Raises `LoadFailed` (A112)."""
    try:
        fd = sys.obj_get(path)
    except sys.SyscallFailed as failure:
        if failure.errno == errno.ENOENT:
            return None
        raise
    with fd:
        found = map_info(fd)
        if found.type != MapType.BPF_MAP_TYPE_ARRAY or found.value_size > _MAX_RECORD_BYTES:
            raise unreadable(path.parent, "it is another map")
        return sys.map_lookup_elem(fd, _INDEX, found.value_size) or b""


def _encoded(record: Record) -> bytes:
    content = {
        "format": _RECORD_FORMAT,
        "applied_at": record.applied_at,
        "home": record.home,
        "facts": {symbol: value.hex() for symbol, value in record.facts.items()},
        "manifest": to_data(record.manifest),
    }
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode())


def _decoded(path: Path, content: bytes) -> Record:
    try:
        data = parse(zlib.decompress(content))
        if data["format"] != _RECORD_FORMAT:
            raise unreadable(path, f"it has format {data['format']}, this version knows {_RECORD_FORMAT}")
        facts = {symbol: bytes.fromhex(value) for symbol, value in data["facts"].items()}
        return Record(from_data(data["manifest"]), facts, int(data["home"]), int(data["applied_at"]))
    except (zlib.error, KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(path, str(error)) from error
    except LoadFailed as error:
        raise unreadable(path, error.diagnostics[0].message) from error


def _encoded_counted(counted: Counted) -> bytes:
    counts = [[*name, count.packets, count.bytes] for name, count in counted.tally.items() if count]
    content = {"format": _RECORD_FORMAT, "maps": sorted(counted.maps), "counts": counts}
    return zlib.compress(json.dumps(content, separators=(",", ":")).encode())


def _decoded_counted(path: Path, content: bytes) -> Counted:
    try:
        data = parse(zlib.decompress(content))
        if data["format"] != _RECORD_FORMAT:
            raise unreadable(path, f"its counts have format {data['format']}, this version knows {_RECORD_FORMAT}")
        counts = {
            (str(service), str(port), str(what)): Count(int(packets), int(size))
            for service, port, what, packets, size in data["counts"]
        }
        return Counted(counts, frozenset(int(found) for found in data["maps"]))
    except (zlib.error, KeyError, TypeError, ValueError) as error:
        raise unreadable(path, f"its counts: {error}") from error


def unreadable(path: Path, reason: str) -> LoadFailed:
    """The refusal (A112) of a record that this version cannot read."""
    message = f"cannot read the record of the running generation at `{path}`: {reason}"
    help_text = f"`bpfchain detach {path.parent.name}` removes the chain"
    return LoadFailed(Diagnostic("A112", message, help=help_text))


def _frozen(content: bytes) -> sys.Fd:
    fd = sys.map_create(
        MapType.BPF_MAP_TYPE_ARRAY,
        key_size=len(_INDEX),
        value_size=len(content),
        max_entries=1,
        map_flags=MapFlag.BPF_F_RDONLY_PROG,
        map_name="bpfchain_record",
    )
    try:
        sys.map_update_elem(fd, _INDEX, content)
        sys.map_freeze(fd)
    except BaseException:
        fd.close()
        raise
    return fd


def _remove_tree(path: Path) -> None:
    """Depth first; what is gone already is no error."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files:
            Path(folder, name).unlink(missing_ok=True)
        for name in folders:
            with contextlib.suppress(FileNotFoundError):
                Path(folder, name).rmdir()
    with contextlib.suppress(FileNotFoundError):
        path.rmdir()
