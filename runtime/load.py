"""An `ObjectSpec`, maps and host facts in; verified programs in the kernel out, owned by a `LoadedObject`."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from schemas.diagnostic import Diagnostic, LoadFailed, NotSupported
from schemas.manifest import Hook, ProgramRecord

from . import features, sys
from .btf import FUNC_INFO, LINE_INFO
from .info import map_info
from .instructions import with_fd, with_value
from .spec import DataSection, MapSpec, ObjectSpec, ProgramSpec
from .uapi import AttachType, MapFlag, MapType, ProgType

EGRESS_SECTION = "xdp/devmap"
_HOOKS = {"xdp": Hook.XDP, "tc": Hook.TC}
_BPF_LOG_STATS = 4  # log level: no word on instructions, a few lines at the end
_STATISTICS_BYTES = 4096

OnVerified = Callable[[str, str], None]

U64_MAX = (1 << 64) - 1

_INDEX = (0).to_bytes(4, "little")


class LoadedObject(Struct, frozen=True):
    """Programs by function name and data sections by name, for as long as this is open."""

    programs: Mapping[str, sys.Fd]
    data: Mapping[str, sys.Fd]

    def close(self) -> None:
        for fd in (*self.programs.values(), *self.data.values()):
            fd.close()

    def __enter__(self) -> LoadedObject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def program_type(hook: Hook, *, egress: bool = False) -> tuple[ProgType, int]:
    """Program type and expected_attach_type of a hook, or of a program that a devmap runs.

    Both must be the same for every program of one prog array (kernel commit 4540aed51b12, "bpf: Enforce expected
    attach type for tailcall compatibility", 6.18 and 6.17.5), so every program of a hook gets the same here.
    """
    match hook:
        case Hook.XDP:
            return ProgType.BPF_PROG_TYPE_XDP, AttachType.BPF_XDP_DEVMAP if egress else AttachType.BPF_XDP
        case Hook.TC:
            return ProgType.BPF_PROG_TYPE_SCHED_CLS, AttachType.BPF_TCX_INGRESS if features.has("link:tcx") else 0


def hook_of(program: ProgramSpec) -> Hook:
    """The hook that a program's section names: `xdp`, `tc`, `xdp/…`. Raises `LoadFailed` (L107)."""
    hook = _HOOKS.get(program.section.split("/", 1)[0])
    if hook is None:
        sections = ", ".join(f"`{section}`" for section in _HOOKS)
        message = f"program `{program.name}` is in section `{program.section}`, which names no hook"
        raise LoadFailed(Diagnostic("L107", message, notes=(f"sections of programs: {sections}",)))
    return hook


def is_egress(program: ProgramSpec) -> bool:
    """Whether a devmap runs the program for what leaves through it: its section is `xdp/devmap`."""
    return program.section == EGRESS_SECTION


def create_map(
    *,
    name: str,
    type: str | int,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    inner_fd: sys.AnyFd | None = None,
) -> sys.Fd:
    """A new map; `type` is the UAPI name or number, the name is cut to 15 bytes. Raises `LoadFailed` (L123)."""
    if isinstance(type, str) and type not in MapType.__members__:
        raise LoadFailed(Diagnostic("L123", f"map `{name}`: there is no map type `{type}`"))
    number = MapType[type] if isinstance(type, str) else type
    try:
        return sys.map_create(
            number,
            key_size=key_size,
            value_size=value_size,
            max_entries=max_entries,
            map_flags=flags,
            map_name=name,
            inner_map_fd=0 if inner_fd is None else inner_fd,
        )
    except sys.SyscallFailed as failure:
        shape = (
            f"{_type_name(number)}, key {key_size}, value {value_size} bytes, {max_entries} entries, flags {flags:#x}"
        )
        raise _refused("L123", f"map `{name}`", failure, (shape,)) from failure


def _type_name(number: int) -> str:
    return next((known.name for known in MapType if known == number), f"map type {number}")


def _refused(
    code: str, what: str, failure: sys.SyscallFailed, notes: tuple[str, ...] = ()
) -> LoadFailed | NotSupported:
    """Why the kernel said no, as far as its error number tells."""
    if failure.errno == errno.EPERM:
        missing = ", ".join(features.missing_privileges())
        reason = f"missing {missing}" if missing else "the privileges must be those of the host"
        return NotSupported(
            "privilege", Diagnostic("L141", f"not allowed to create {what}: {reason}", help=features.ENOUGH_PRIVILEGE)
        )
    meaning = {errno.ENOMEM: " (the memory limit of this control group)", errno.E2BIG: " (too large)"}
    return LoadFailed(
        Diagnostic(code, f"the kernel refuses {what}: {failure}{meaning.get(failure.errno, '')}", notes=notes)
    )


def load_object(
    spec: ObjectSpec,
    *,
    maps: Mapping[str, sys.AnyFd],
    values: Mapping[str, int] | None = None,
    records: Mapping[str, ProgramRecord] | None = None,
    log_directory: Path | None = None,
    on_verified: OnVerified | None = None,
) -> LoadedObject:
    """Loads every program of an object.

    `maps` are by name and stay the caller's; each must agree with the object's own definition. `values` are what stands
    in the instructions that load a symbol which the object declares and does not define. `records` are by function and
    let a refusal name its service and line. `on_verified` gets each function and the verifier's word on its own work.

    Raises `LoadFailed` (L107, L120 to L126), `VerifierRejected` (L130), `NotSupported`; nothing is left then.
    """
    with contextlib.ExitStack() as on_failure:
        _check_maps(spec, maps)
        data: dict[str, sys.Fd] = {}
        for section in _used_sections(spec):
            data[section.name] = on_failure.enter_context(_data_map(section))
        with _btf(spec) as btf_fd:
            loader = _Loader(spec, {**maps, **data}, values or {}, btf_fd, records or {}, log_directory, on_verified)
            programs = {program.name: on_failure.enter_context(loader.load(program)) for program in spec.programs}
        on_failure.pop_all()
    return LoadedObject(programs, data)


def _check_maps(spec: ObjectSpec, maps: Mapping[str, sys.AnyFd]) -> None:
    used = {reference.map for program in spec.programs for reference in program.maps}
    for wanted in spec.maps:
        if wanted.name in used:
            _check_map(spec, wanted, maps.get(wanted.name))


def _check_map(spec: ObjectSpec, wanted: MapSpec, fd: sys.AnyFd | None) -> None:
    if fd is None:
        raise LoadFailed(Diagnostic("L121", f"object `{spec.name}` needs a map `{wanted.name}`, which is not given"))
    found = map_info(fd)
    pairs = {
        "type": (_type_name(wanted.type), _type_name(found.type)),
        "key_size": (wanted.key_size, found.key_size),
        "value_size": (wanted.value_size, found.value_size),
        "max_entries": (wanted.max_entries, found.max_entries),
        # The kernel itself makes devmaps read-only for programs (commit 0cdbb4b09a06, 4.18).
        "flags": (wanted.map_flags, found.map_flags & ~(MapFlag.BPF_F_RDONLY_PROG & ~wanted.map_flags)),
    }
    differing = tuple(
        f"{what}: object {in_object}, map {there}" for what, (in_object, there) in pairs.items() if in_object != there
    )
    if differing:
        raise LoadFailed(
            Diagnostic("L120", f"map `{wanted.name}` is not what object `{spec.name}` expects", notes=differing)
        )


def _used_sections(spec: ObjectSpec) -> Iterator[DataSection]:
    used = {reference.section for program in spec.programs for reference in program.sections}
    return (section for section in spec.data if section.name in used)


def _data_map(section: DataSection) -> sys.Fd:
    """A data section as an array of one element: what programs address, and user space maps or finds frozen."""
    fd = create_map(
        name=section.name,
        type=MapType.BPF_MAP_TYPE_ARRAY,
        key_size=len(_INDEX),
        value_size=len(section.content),
        max_entries=1,
        flags=MapFlag.BPF_F_RDONLY_PROG if section.read_only else MapFlag.BPF_F_MMAPABLE,
    )
    try:
        sys.map_update_elem(fd, _INDEX, section.content)
        if section.read_only:
            sys.map_freeze(fd)
    except sys.SyscallFailed as failure:
        fd.close()
        raise _refused("L123", f"section `{section.name}`", failure) from failure
    return fd


@contextlib.contextmanager
def _btf(spec: ObjectSpec) -> Iterator[sys.Fd | None]:
    """The object's type information in the kernel; programs keep it, so it may be closed after they are loaded."""
    if not spec.btf:
        yield None
        return
    try:
        fd = sys.btf_load(spec.btf)
    except sys.SyscallFailed as failure:
        raise _refused("L124", f"the BTF of object `{spec.name}`", failure, _btf_reason(spec.btf)) from failure
    with fd:
        yield fd


def _btf_reason(btf: bytes) -> tuple[str, ...]:
    log = sys.Log()
    try:
        sys.btf_load(btf, log).close()
    except sys.SyscallFailed:
        return tuple(log.text.splitlines()[-3:])
    return ()


class _Loader(Struct, frozen=True):
    """Loads the programs of one object, each once its references have descriptors and values."""

    spec: ObjectSpec
    fds: Mapping[str, sys.AnyFd]
    values: Mapping[str, int]
    btf_fd: sys.Fd | None
    records: Mapping[str, ProgramRecord]
    log_directory: Path | None
    on_verified: OnVerified | None

    def load(self, program: ProgramSpec) -> sys.Fd:
        prog_type, attach_type = program_type(hook_of(program), egress=is_egress(program))
        try_load = functools.partial(self._prog_load, program, prog_type, attach_type, self._filled_in(program))
        statistics = sys.Log(level=_BPF_LOG_STATS, size=_STATISTICS_BYTES) if self.on_verified else None
        try:
            fd = try_load(statistics)
            if self.on_verified and statistics:
                self.on_verified(program.name, statistics.text)
            return fd
        except sys.SyscallFailed as failure:
            if failure.errno == errno.EPERM and features.missing_privileges():
                raise _refused("L125", f"program `{program.name}`", failure) from failure
            return self._explain(program, try_load, failure)

    def _prog_load(
        self, program: ProgramSpec, prog_type: int, attach_type: int, insns: bytes, log: sys.Log | None
    ) -> sys.Fd:
        return sys.prog_load(
            prog_type,
            insns,
            license=self.spec.license,
            prog_name=program.name,
            expected_attach_type=attach_type,
            prog_btf_fd=self.btf_fd or 0,
            func_info=program.func_info if self.btf_fd else b"",
            func_info_rec_size=FUNC_INFO.size,
            line_info=program.line_info if self.btf_fd else b"",
            line_info_rec_size=LINE_INFO.size,
            log=log,
        )

    def _filled_in(self, program: ProgramSpec) -> bytes:
        """The instructions with the descriptors of maps and the values of symbols in them."""
        insns = bytearray(program.insns)
        for insn, name in (
            *((reference.insn, reference.map) for reference in program.maps),
            *((reference.insn, reference.section) for reference in program.sections),
        ):
            fd = self.fds[name]
            with_fd(insns, insn, fd if isinstance(fd, int) else fd.fileno())
        for value in program.values:
            with_value(insns, value.insn, self._value(program, value.symbol))
        return bytes(insns)

    def _value(self, program: ProgramSpec, symbol: str) -> int:
        value = self.values.get(symbol)
        if value is None:
            raise LoadFailed(
                Diagnostic("L122", f"program `{program.name}` wants a value for `{symbol}`, and there is none")
            )
        if not 0 <= value <= U64_MAX:
            raise LoadFailed(Diagnostic("L122", f"the value of `{symbol}` does not fit 64 bits: {value}"))
        return value

    def _explain(
        self, program: ProgramSpec, try_load: Callable[[sys.Log | None], sys.Fd], failure: sys.SyscallFailed
    ) -> sys.Fd:
        """Raises what the verifier has to say; returns the program if it loads at the second attempt."""
        from . import verifier  # only a refusal needs it, and imports are most of a command's time

        fd, log = verifier.load_with_log(try_load)
        if fd:
            return fd
        verdict = verifier.judge(log)
        if not verdict.reason and failure.errno == errno.EINVAL:
            self._explain_prog_arrays(program, failure)
        if not verdict.reason:
            raise _refused("L125", f"program `{program.name}`", failure)
        path = verifier.save_log(log, program.name, self.log_directory)
        record = self.records.get(program.name)
        raise verifier.rejection(program, self._string, verdict, path, record) from failure

    def _string(self, at: int) -> str:
        start = int.from_bytes(self.spec.btf[4:8], "little") + int.from_bytes(self.spec.btf[16:20], "little") + at
        return self.spec.btf[start : self.spec.btf.find(b"\0", start)].decode("utf-8", "replace")

    def _explain_prog_arrays(self, program: ProgramSpec, failure: sys.SyscallFailed) -> None:
        """A program that verifies, and yet EINVAL: a prog array that it refers to holds programs of another kind."""
        types = {wanted.name: wanted.type for wanted in self.spec.maps}
        arrays = [r.map for r in program.maps if types.get(r.map) == MapType.BPF_MAP_TYPE_PROG_ARRAY]
        if not arrays:
            return
        named = ", ".join(f"`{name}`" for name in dict.fromkeys(arrays))
        message = (
            f"program `{program.name}` ({hook_of(program)}) cannot use prog array {named} of programs of another kind"
        )
        note = "a prog array takes one program type and one expected_attach_type: use one for each hook and generation"
        raise LoadFailed(Diagnostic("L126", message, notes=(note,))) from failure


def create_maps(spec: ObjectSpec) -> dict[str, sys.Fd]:
    """All maps of an object that stands alone, maps of maps filled; the caller closes them. Raises `LoadFailed`."""
    made: dict[str, sys.Fd] = {}
    with contextlib.ExitStack() as on_failure:
        for wanted in spec.maps:
            inner = on_failure.enter_context(_create(wanted.inner)) if wanted.inner else None
            made[wanted.name] = on_failure.enter_context(_create(wanted, inner))
            if inner:
                inner.close()
        for wanted in spec.maps:
            if wanted.inner:
                _fill(wanted, made[wanted.name], made)
        on_failure.pop_all()
    return made


def fill_prog_arrays(spec: ObjectSpec, maps: Mapping[str, sys.AnyFd], programs: Mapping[str, sys.AnyFd]) -> None:
    """Writes the `values` of an object's prog arrays, once its programs are loaded. Raises `LoadFailed` (L127)."""
    for wanted in spec.maps:
        if wanted.type == MapType.BPF_MAP_TYPE_PROG_ARRAY and wanted.values:
            _fill(wanted, maps[wanted.name], programs)


def _create(wanted: MapSpec, inner: sys.Fd | None = None) -> sys.Fd:
    return create_map(
        name=wanted.name,
        type=wanted.type,
        key_size=wanted.key_size,
        value_size=wanted.value_size,
        max_entries=wanted.max_entries,
        flags=wanted.map_flags,
        inner_fd=inner,
    )


def _fill(wanted: MapSpec, map_fd: sys.AnyFd, values: Mapping[str, sys.AnyFd]) -> None:
    for index, name in wanted.values:
        fd = values.get(name)
        if fd is None:
            raise LoadFailed(Diagnostic("L127", f"map `{wanted.name}`, entry {index}: there is no `{name}`"))
        number = fd if isinstance(fd, int) else fd.fileno()
        try:
            sys.map_update_elem(map_fd, index.to_bytes(4, "little"), number.to_bytes(4, "little"))
        except sys.SyscallFailed as failure:
            raise _refused("L127", f"`{name}` as entry {index} of map `{wanted.name}`", failure) from failure
