"""The whole compiler: a chain file in, a folder with objects, readable C and a manifest out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from schemas import manifest as m
from schemas.compiled import MANIFEST_FILE, CompiledChain, object_file, save
from schemas.drop import GLUE_DROPS, SLOW_PATH_DROPS, named
from schemas.stopwatch import Stopwatch, Timings

from .clang import CompiledObject, compile_units, find_clang
from .emit import units as c_units
from .installed import installed
from .ir import (
    ChainIR,
    Constant,
    HostBound,
    Injector,
    Inlined,
    InMap,
    LoadTime,
    MapDef,
    Program,
)
from .lower import counters_map, counts_copies, layout_hash, lower, reached_services, value_symbol
from .model import ServiceInstance
from .resolve import resolve
from .slow_path import RING, upcalls_map
from .source import read
from .verify import verify


class Compiled(Struct, frozen=True):
    """What `build` made: the compiled chain, its C, and what each stage took.

    `directory` holds `manifest.json`, `objects/` and `src/`, or is None where nothing was to be written.
    """

    chain: CompiledChain
    programs: tuple[CompiledObject, ...]
    directory: Path | None
    seconds: Timings

    @property
    def manifest(self) -> m.Manifest:
        """The record of everything that the runtime needs to know."""
        return self.chain.manifest


_UNIT = re.compile(r"[a-zA-Z0-9_]+\.c")


def version() -> str:
    """The version of bpfchain that runs."""
    return installed().version


def lowered(file: str | os.PathLike[str]) -> ChainIR:
    """The verified IR of a chain file. Raises InvalidChain."""
    return verify(lower(resolve(read(os.fspath(file)))), "lower")


def build(
    file: str | os.PathLike[str],
    directory: str | os.PathLike[str] | None = None,
    *,
    clang: str | None = None,
    jobs: int | None = None,
    progress: Callable[[CompiledObject, int], None] | None = None,
) -> Compiled:
    """Compile a chain file; write the result to `directory`, if one is given. `progress` hears (object, of how many).

    Raises InvalidChain for what is wrong in the file, CompileFailed if there is no clang.
    """
    watch = Stopwatch()
    watch.enter("read")
    source = read(os.fspath(file))
    watch.enter("validate")
    chain = resolve(source)
    watch.enter("lower")
    ir = verify(lower(chain), "lower")
    units = c_units(ir, version())
    watch.enter("clang")
    done = (lambda compiled: progress(compiled, len(units))) if progress else None
    objects = compile_units(units, find_clang(clang), jobs=jobs, done=done)
    watch.enter("write")
    compiled = CompiledChain(make_manifest(ir, objects), {object_file(each.elf): each.elf for each in objects})
    written = _write(Path(directory), compiled, objects) if directory is not None else None
    return Compiled(compiled, objects, written, watch.stop())


def _write(directory: Path, chain: CompiledChain, objects: tuple[CompiledObject, ...]) -> Path:
    """The compiled chain, and beside it the C that it was made from, for people."""
    stale = _units(directory) - {compiled.unit.name for compiled in objects}
    save(chain, directory)
    sources = directory / "src"
    sources.mkdir(exist_ok=True)
    for name in stale:
        (sources / name).unlink(missing_ok=True)
    for compiled in objects:
        (sources / compiled.unit.name).write_text(compiled.unit.text, encoding="utf-8")
    return directory


def _units(directory: Path) -> set[str]:
    """Names of the units that an earlier run wrote there: nothing else in `src/` is ours to remove."""
    try:
        programs = json.loads((directory / MANIFEST_FILE).read_text(encoding="utf-8"))["programs"]
        names = {f"{program['name']}.c" for program in programs}
    except (OSError, ValueError, LookupError, TypeError):
        return set()  # no manifest, or none of ours
    return {name for name in names if _UNIT.fullmatch(name)}


def make_manifest(ir: ChainIR, objects: tuple[CompiledObject, ...]) -> m.Manifest:
    """The record of everything that the runtime needs to know."""
    return m.Manifest(
        format=m.FORMAT,
        version=version(),
        chain=ir.name,
        source=m.SourceRecord(Path(ir.file).name, ir.sha256),
        features=_features(ir),
        interfaces=(
            *(m.InterfaceRecord(i.name, i.device, i.mode, i.netns, i.span.brief) for i in ir.interfaces),
            *(m.InterfaceRecord(i.name, i.device, i.mode, i.netns, i.span.brief, i.vlan) for i in ir.shared),
        ),
        internal_links=tuple(
            m.InternalLinkRecord(link.name, link.hook, link.program, link.interface) for link in ir.internal_links
        ),
        services=_services(ir),
        objects=tuple(
            m.ObjectRecord(file, sha256)
            for file, sha256 in sorted({object_file(each.elf): each.sha256 for each in objects}.items())
        ),
        programs=tuple(_program(compiled) for compiled in objects),
        maps=tuple(_map(definition) for definition in ir.maps),
        tail_slots=tuple(m.TailSlotRecord(s.map, s.index, s.program, s.span.brief) for s in ir.tail_slots),
        device_slots=tuple(m.DeviceSlotRecord(s.map, s.index, s.device, s.program) for s in ir.device_slots),
        host_symbols=tuple(m.HostSymbolRecord(s.symbol, s.fact, s.device) for s in ir.host_symbols),
        attach=tuple(m.AttachRecord(a.interface, a.program) for a in ir.attach),
        edges=_edges(ir),
    )


def _features(ir: ChainIR) -> tuple[str, ...]:
    """What the kernel must be able to do, in the words of runtime/features.py."""
    types = {"xdp": "program:xdp", "tc": "program:sched_cls"}
    programs = {"program:xdp/devmap" if program.egress else types[program.hook] for program in ir.programs}
    maps = {f"map:{definition.type}" for definition in ir.maps}
    helpers: set[str] = set()
    if any(definition.name == RING for definition in ir.maps):
        helpers = {"helper:bpf_ringbuf_output"}
        helpers |= {"helper:bpf_xdp_load_bytes"} if "program:xdp" in programs else set()
    return tuple(sorted(programs | maps | helpers))


def _services(ir: ChainIR) -> tuple[m.ServiceRecord, ...]:
    return tuple(
        m.ServiceRecord(
            name=instance.name,
            kind=instance.kind,
            ports=tuple(port.name for port in instance.ports),
            counters=counters_map(instance.name),
            drop_reasons=_drop_reasons(instance),
            slow_path_reasons=instance.slow_path_reasons,
            upcalls=upcalls_map(instance.name) if instance.slow_path_reasons else "",
            control=instance.control,
            span=instance.span.brief,
            counts_copies=counts_copies(ir.programs, instance),
        )
        for instance in reached_services(ir)
    )


def _drop_reasons(instance: ServiceInstance) -> tuple[tuple[int, str], ...]:
    """The service's own, and those of the generated code around it."""
    glue = GLUE_DROPS + (SLOW_PATH_DROPS if instance.slow_path_reasons else ())
    return tuple(sorted(dict(named(*glue) + instance.service.drop_reasons).items()))


def _program(compiled: CompiledObject) -> m.ProgramRecord:
    program = compiled.unit.program
    return m.ProgramRecord(
        name=program.name,
        service=None if isinstance(program, Injector) else program.service,
        port=None if isinstance(program, Injector) else program.port,
        hook=program.hook,
        object=object_file(compiled.elf),
        function=program.name,
        span=program.span.brief,
        constants=() if isinstance(program, Injector) else _constants(program),
        lines=_lines(compiled),
        egress=isinstance(program, Program) and program.egress,
        values=() if isinstance(program, Injector) else _values(program, compiled),
    )


def _lines(compiled: CompiledObject) -> tuple[m.LineRecord, ...]:
    """The last word on every line of C, in order."""
    lines = dict(compiled.unit.lines(compiled.marks))
    return tuple(m.LineRecord(line, f"{span.brief}:{span.column}") for line, span in sorted(lines.items()))


def _constants(program: Program) -> tuple[m.ConstantRecord, ...]:
    return tuple(
        m.ConstantRecord(constant.path, constant.value, constant.span.brief)
        for constant in program.lowered.constants
        if isinstance(constant.home, Inlined | LoadTime | HostBound)
    )


def _values(program: Program, compiled: CompiledObject) -> tuple[m.ValueRecord, ...]:
    """What the loader has to write into a program, as far as clang has left a use of it."""
    values = {
        value_symbol(constant.path): constant.home.value
        for constant in program.lowered.constants
        if isinstance(constant.home, LoadTime)
    }
    return tuple(m.ValueRecord(symbol, value) for symbol, value in values.items() if compiled.refers_to(symbol))


def _map(definition: MapDef) -> m.MapRecord:
    return m.MapRecord(
        name=definition.name,
        type=definition.type,
        key_size=definition.key_size,
        value_size=definition.value_size,
        max_entries=definition.max_entries,
        flags=definition.flags,
        scope=definition.scope,
        role=definition.role,
        service=definition.service,
        layout=layout_hash(definition),
        meaning=definition.layout,
        counts=definition.counts,
        filled=definition.filled,
        entries=tuple(_entry(entry) for entry in definition.entries),
        span=definition.span.brief,
    )


def _entry(entry: Constant) -> m.EntryRecord:
    assert isinstance(entry.home, InMap), "verify has checked it"
    return m.EntryRecord(entry.home.key, entry.home.value, entry.path, entry.span.brief)


def _edges(ir: ChainIR) -> tuple[m.EdgeRecord, ...]:
    edges = {
        (edge.service, edge.port, str(edge.target)): edge.span.brief
        for program in ir.programs
        for edge in program.edges
    }
    return tuple(m.EdgeRecord(*key, span) for key, span in edges.items())
