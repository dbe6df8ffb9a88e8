"""`CUnit` → `CompiledObject`: finds a clang for BPF, runs it in parallel, and never compiles the same twice.

What it takes to run clang is imported where that is done: usually the cache has the objects.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import CompileFailed, Diagnostic, Span
from schemas.threads import in_threads

from .cache import cache_folder, write_whole
from .emit import CUnit, Mark
from .essence import essence

MIN_VERSION = 15
SYSTEM_NAMES = ("clang", *(f"clang-{version}" for version in range(30, MIN_VERSION - 1, -1)))
FLAGS = (
    "-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-fno-asynchronous-unwind-tables", "-fno-ident", "-std=gnu17",
    "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-variable", "-Wno-unused-const-variable",
)  # fmt: skip
_VERSION = re.compile(r"clang version (\d+)[.\d]*")
_ERROR = re.compile(r"^(?P<file>[^:\n]+):(?P<line>\d+):(?P<column>\d+): (?:fatal )?error: (?P<text>.*)$", re.MULTILINE)


class Clang(Struct, frozen=True):
    """A usable clang: the words that start it, and its version text."""

    command: tuple[str, ...]
    version: str


class CompiledObject(Struct, frozen=True):
    """An ELF object, which lines of its C stem from somewhere, and whether it came from the cache."""

    unit: CUnit
    elf: bytes
    marks: tuple[Mark, ...]
    cached: bool

    @property
    def sha256(self) -> str:
        """Of the object's bytes, in hex."""
        return hashlib.sha256(self.elf).hexdigest()

    def refers_to(self, symbol: str) -> bool:
        """Whether its code uses a symbol that is declared without debug information.

        Then its name is nowhere but in the string table, and there only if an instruction is left that loads it.
        """
        return symbol.encode() + b"\0" in self.elf


def find_clang(chosen: str | None = None) -> Clang:
    """The clang that was chosen (or named in BPFCHAIN_CLANG), else a system clang, else the ziglang wheel's.

    Raises CompileFailed (K101: the chosen one is unfit; K102: there is none), which says what to install.
    """
    chosen = chosen or os.environ.get("BPFCHAIN_CLANG") or None
    if chosen:
        return _chosen(chosen)
    for path in _on_path(SYSTEM_NAMES):
        if clang := _usable((path,)):
            return clang
    if bundled := _bundled():
        return bundled
    raise CompileFailed(
        Diagnostic(
            "K102",
            "no clang that can compile BPF",
            notes=(f"looked for a system clang of version {MIN_VERSION} or later, then for the `ziglang` package",),
            help="pip install 'bpfchain[clang]'",
        )
    )


def _on_path(names: Iterable[str]) -> Iterator[str]:
    """Commands of these names, as `shutil.which` finds them, whose module takes longer to import."""
    folders = os.get_exec_path()
    for name in names:
        found = (os.path.join(folder, name) for folder in folders)
        yield from (path for path in found if os.access(path, os.X_OK) and os.path.isfile(path))


def _chosen(command: str) -> Clang:
    import shutil

    path = shutil.which(command)
    clang = _usable((path,)) if path else None
    if clang:
        return clang
    reason = "it does not compile BPF, or is too old" if path else "there is no such command"
    raise CompileFailed(
        Diagnostic(
            "K101",
            f"`{command}` is not usable as clang: {reason}",
            notes=(f"version {MIN_VERSION} or later with the BPF target is needed",),
            help="leave out --clang and BPFCHAIN_CLANG to have one looked for",
        )
    )


def _bundled() -> Clang | None:
    try:
        import ziglang
    except ImportError:
        return None
    return _usable((str(Path(ziglang.__file__).parent / "zig"), "clang"))


@cache
def _usable(command: tuple[str, ...]) -> Clang | None:
    """The clang behind `command`, if it is new enough and has the BPF target; what was found out is kept per binary."""
    binary = Path(command[0]).resolve()
    stat = binary.stat()
    known = cache_folder() / "clang" / _digest([*command, str(binary), str(stat.st_size), str(stat.st_mtime_ns)])
    if not known.exists():
        write_whole(known, _probe(command).encode())
    version = known.read_text()
    return Clang(command, version) if version else None


def _probe(command: tuple[str, ...]) -> str:
    """The version line of a clang that is fit, "" for any other command."""
    import subprocess

    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    version = _VERSION.search(shown.stdout)
    if not version or int(version[1]) < MIN_VERSION:
        return ""
    tried = subprocess.run(  # noqa: S603
        [*command, *FLAGS, "-x", "c", "-c", "-", "-o", "-"], input=b"int x;", capture_output=True, check=False
    )
    return shown.stdout.splitlines()[0] if tried.returncode == 0 else ""


def compile_units(
    units: Sequence[CUnit],
    clang: Clang,
    *,
    jobs: int | None = None,
    done: Callable[[CompiledObject], None] | None = None,
) -> tuple[CompiledObject, ...]:
    """Compile units, as many at a time as there are CPUs; `done` hears of each. Raises CompileFailed: all errors."""
    known = {unit.name: _known(unit, clang) for unit in units}
    objects = {name: found for name, found in known.items() if found}
    unknown = [unit for unit in units if unit.name not in objects]
    places = _places(unknown, clang)
    objects |= {unit.name: found for unit in unknown if (found := _kept(unit, places[unit.name]))}
    if done:
        for kept in objects.values():
            done(kept)
    missing = [unit for unit in unknown if unit.name not in objects]
    if missing:
        objects |= _compile_in_parallel(missing, clang, places, jobs, done)
    for unit in unknown:
        _remember(unit, clang, places[unit.name])
    return tuple(objects[unit.name] for unit in units)


def _places(units: Sequence[CUnit], clang: Clang) -> dict[str, Path]:
    """Where the objects of units are kept: by their C, all headers, and how it is compiled."""
    headers = _digest(_header_texts(units))
    parts = [clang.version, *FLAGS, headers]
    return {unit.name: cache_folder() / "objects" / _digest([*parts, unit.name, unit.code]) for unit in units}


def _kept(unit: CUnit, place: Path) -> CompiledObject | None:
    return CompiledObject(unit, place.read_bytes(), unit.marks, cached=True) if place.exists() else None


# What is known of a unit by its essence, without its C: the name of the object's file, and the marks.


def _known(unit: CUnit, clang: Clang) -> CompiledObject | None:
    note = _note(unit, clang)
    try:
        place, marks = json.loads(note.read_bytes()) if note else ("", ())
        elf = (cache_folder() / "objects" / place).read_bytes()
        return CompiledObject(unit, elf, tuple((line, place) for line, place in marks), cached=True)
    except (OSError, ValueError, TypeError):  # it is not there, or not whole
        return None


def _remember(unit: CUnit, clang: Clang, place: Path) -> None:
    note = _note(unit, clang)
    if note:
        write_whole(note, json.dumps([place.name, unit.marks]).encode())


def _note(unit: CUnit, clang: Clang) -> Path | None:
    found = essence(unit)
    return cache_folder() / "units" / _digest([clang.version, *FLAGS, found.hex()]) if found else None


def _compile_in_parallel(
    units: Sequence[CUnit],
    clang: Clang,
    places: Mapping[str, Path],
    jobs: int | None,
    done: Callable[[CompiledObject], None] | None,
) -> dict[str, CompiledObject]:
    """The objects by their units' names, once they are in their places too."""

    def one(unit: CUnit) -> CompiledObject:
        compiled = CompiledObject(unit, _run(unit, clang), unit.marks, cached=False)
        write_whole(places[unit.name], compiled.elf)
        if done:
            done(compiled)
        return compiled

    results = in_threads(one, units, jobs)
    for failed in results:
        if isinstance(failed, BaseException) and not isinstance(failed, CompileFailed):
            raise failed
    refused = [failed for failed in results if isinstance(failed, CompileFailed)]
    if refused:
        raise CompileFailed(*(diagnostic for failed in refused for diagnostic in failed.diagnostics))
    return {result.unit.name: result for result in results if isinstance(result, CompiledObject)}


def _run(unit: CUnit, clang: Clang) -> bytes:
    """One run of clang, in a folder of its own, by relative names: no path of this machine gets into the object."""
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bpfchain-") as folder:
        Path(folder, unit.name).write_text(unit.code, encoding="utf-8")
        for number, headers in enumerate(unit.headers):
            Path(folder, f"include{number}").symlink_to(headers, target_is_directory=True)
        includes = [f"-Iinclude{number}" for number in range(len(unit.headers))]
        output = Path(folder, "out.o")
        command = [*clang.command, *FLAGS, "-fdebug-compilation-dir=.", *includes, "-c", unit.name, "-o", output.name]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if ran.returncode != 0:
            raise CompileFailed(*_refusals(unit, ran.stderr))
        return output.read_bytes()


def _refusals(unit: CUnit, stderr: str) -> tuple[Diagnostic, ...]:
    """clang's errors as diagnostics at the chain file's lines. Users write no C: each is our defect, and says so."""
    found = list(_ERROR.finditer(stderr))
    if not found:
        return (
            _refusal(unit, stderr.strip().splitlines()[-1] if stderr.strip() else "no output", "", unit.program.span),
        )
    return tuple(
        _refusal(
            unit, error["text"], f"{error['file']}:{error['line']}", _span_of(unit, error["file"], int(error["line"]))
        )
        for error in found
    )


def _refusal(unit: CUnit, text: str, where: str, span: Span) -> Diagnostic:
    program = unit.program
    service = f"service `{program.instance.name}` (kind `{program.instance.kind}`)"
    what = f"the C of {service}, port `{program.port}`" if program.port else f"the C of injection for {service}"
    return Diagnostic(
        "K103",
        f"clang refused {what}",
        span,
        label="generated for this",
        notes=(
            f"clang: {where + ': ' if where else ''}{text}",
            f"a defect of {program.instance.service.origin}, not of the chain file",
        ),
        help="please report it with the chain file",
    )


def _span_of(unit: CUnit, file: str, line: int) -> Span:
    """The place in the chain file that line `line` of the unit stems from; the program's own for lines of headers."""
    if file != unit.name:
        return unit.program.span
    lines = unit.lines(unit.marks)
    return max((placed for placed in lines if placed[0] <= line), key=lambda placed: placed[0])[1]


def _header_texts(units: Iterable[CUnit]) -> list[str]:
    folders = sorted({folder for unit in units for folder in unit.headers})
    return [header.read_text(encoding="utf-8") for folder in folders for header in sorted(folder.glob("*.h"))]


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
