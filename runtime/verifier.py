"""A program that the kernel refused in, a diagnostic out that names the service, the line of YAML and the line of C.

The verifier's log ends with the instruction that it stopped at and its reason; the program's own line records lead
from the instruction to the C unit, and the manifest's from there to the chain file. The whole log is kept in a file.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from schemas.diagnostic import Diagnostic, Span, VerifierRejected
from schemas.manifest import ProgramRecord
from schemas.trust import distrust

from . import sys
from .btf import LINE_INFO
from .spec import ProgramSpec

STATE_DIRECTORY = Path("/run/bpfchain")
"""Where logs are kept unless told otherwise."""

_LOG_LIMIT = 256 << 20
_INSN_LINE = re.compile(r"^(\d+): \(([0-9a-f]{2})\) ([^;]*)")
_STATISTICS = re.compile(r"^(processed \d+ insns|verification time|stack depth|peak_states)")
_LINE_SHIFT = 10  # BPF_LINE_INFO_LINE_NUM
_REASON_LINES = 3


class Verdict(Struct, frozen=True):
    """What a log says: the reason (empty where the verifier was content) and the instruction that it stopped at."""

    reason: tuple[str, ...]
    insn: int | None
    insn_text: str


class CLine(Struct, frozen=True):
    """A line of C that an instruction stems from."""

    file: str
    line: int
    text: str


def load_with_log(load: Callable[[sys.Log], sys.Fd]) -> tuple[sys.Fd | None, str]:
    """Loads once more to hear why not: the program, if it loads this time, and the verifier's whole log."""
    log = sys.Log(level=1)
    while True:
        try:
            return load(log), log.text
        except sys.SyscallFailed as failure:
            wanted = max(log.true_size, 4 * log.size)
            if failure.errno == errno.ENOSPC and wanted <= _LOG_LIMIT:
                log = sys.Log(log.level, wanted)
            elif not log.text.strip() and log.level == 1:
                log = sys.Log(level=2)
            else:
                return None, log.text


def judge(log: str) -> Verdict:
    """The deciding lines of a log: what follows the last instruction in it."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip() and not _STATISTICS.match(line)]
    last = max((index for index, line in enumerate(lines) if _INSN_LINE.match(line)), default=None)
    if last is None:
        return Verdict(tuple(lines[-_REASON_LINES:]), None, "")
    found = _INSN_LINE.match(lines[last])
    assert found is not None
    reason = [line for line in lines[last + 1 :] if not line.startswith((";", "from "))]
    return Verdict(tuple(reason[-_REASON_LINES:]), int(found[1]), found[3].strip())


def rejection(
    program: ProgramSpec,
    strings: Callable[[int], str],
    verdict: Verdict,
    log_path: Path,
    record: ProgramRecord | None,
) -> VerifierRejected:
    """The diagnostic (L130). `strings` gives the BTF string at an offset."""
    reason = "; ".join(verdict.reason)
    who = f"`{record.service}.{record.port}` ({record.hook})" if record and record.service else f"`{program.name}`"
    notes = []
    span = None
    if verdict.insn is not None:
        notes.append(f"instruction {verdict.insn} of `{program.name}`: {verdict.insn_text}")
        here = c_lines(program, strings, verdict.insn)
        notes += [f"C: {line.file}:{line.line}: {line.text}".removesuffix(": ") for line in here]
        if record and here:
            span = yaml_span(record, here[-1].line)
    if record and span is None:
        span = parse_span(record.span)
    notes.append(f"the whole log: {log_path}")
    message = f"the kernel's verifier refuses the program of {who}: {reason}"
    help_text = "this is a defect of bpfchain or of the service's C: please report it with the log"
    return VerifierRejected(
        Diagnostic("L130", message, span, notes=tuple(notes), help=help_text), log_path=str(log_path)
    )


def c_lines(program: ProgramSpec, strings: Callable[[int], str], insn: int) -> list[CLine]:
    """Where an instruction stems from: its own line, and the line of the C unit that it was inlined into, if another.

    The unit is the file that the program's first line record names: an entry function is never in a header.
    """
    before = [record for record in LINE_INFO.iter_unpack(program.line_info) if record[0] <= insn]
    if not before:
        return []
    unit = before[0][1]
    own = before[-1]
    start = max(place.insn for place in program.functions if place.insn <= insn)
    in_unit = next((record for record in reversed(before) if record[1] == unit and record[0] >= start), None)
    records = [own] if in_unit is None or in_unit == own else [own, in_unit]
    return [CLine(strings(file), column >> _LINE_SHIFT, strings(text).strip()) for _, file, text, column in records]


def yaml_span(record: ProgramRecord, c_line: int) -> Span | None:
    """Where in the chain file a line of the program's C unit stems from."""
    known = [line for line in record.lines if line.c_line <= c_line]
    return parse_span(max(known, key=lambda line: line.c_line).span) if known else None


def parse_span(text: str) -> Span | None:
    """`edge.yaml:14:3` as a span of one character; None where it says no place."""
    file, _, rest = text.partition(":")
    line, _, column = rest.partition(":")
    if not (file and line.isdecimal() and column.isdecimal()):
        return None
    return Span(file, int(line), int(column), int(line), int(column) + 1)


def save_log(log: str, program: str, directory: Path | None = None) -> Path:
    """Keeps a log in a directory that only its owner can read, and says where."""
    name = f"verifier-{re.sub(r'[^A-Za-z0-9_-]', '_', program)}.log"
    path = _private_directory(directory) / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(log)
    return path


def _private_directory(directory: Path | None) -> Path:
    if directory is not None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory
    try:
        STATE_DIRECTORY.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = not distrust(STATE_DIRECTORY.stat()) and os.access(STATE_DIRECTORY, os.W_OK)
    except OSError:
        usable = False
    return STATE_DIRECTORY if usable else Path(tempfile.mkdtemp(prefix="bpfchain-"))
