"""Diagnostics in, text out: the one place that words the frame around them, for people, editors, programs and CI.

The JSON form is `{"format": 1, "diagnostics": [...]}`, each with `code`, `severity`, `message`, `label`, `notes` (a
list), `help`, and `span`: null, or `file`, `line`, `column`, `end_line`, `end_column`, which count from 1.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from msgspec import Struct, to_builtins

from .diagnostic import Diagnostic, Severity, Span

JSON_FORMAT = 1
WIDTH = 110  # columns of a source line that are shown
TAB = "    "


class Format(StrEnum):
    """What `--format` takes."""

    TEXT = "text"
    SHORT = "short"
    JSON = "json"
    GITHUB = "github"


def render(
    diagnostics: Iterable[Diagnostic],
    sources: Mapping[str, str],
    format: Format | str = Format.TEXT,
    *,
    colour: bool = False,
) -> str:
    """All diagnostics as one text that ends with a line end, or is empty; JSON is always complete.

    `sources` holds the texts of the files that spans name; where one is missing, its line is left out.
    """
    match Format(format):
        case Format.JSON:
            document = {"format": JSON_FORMAT, "diagnostics": [to_builtins(found) for found in diagnostics]}
            return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        case Format.SHORT:
            return "".join(_short(found) + "\n" for found in diagnostics)
        case Format.GITHUB:
            return "".join(_github(found) + "\n" for found in diagnostics)
    lines = {file: _lines(text) for file, text in sources.items()}
    return "\n".join(_text(found, lines, _Paint(colour)) for found in diagnostics)


class _Paint(Struct, frozen=True):
    """Terminal colours, or none."""

    on: bool

    def __call__(self, text: str, *codes: int) -> str:
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m" if self.on and text else text

    def severity(self, text: str, severity: Severity) -> str:
        return self(text, 1, 31 if severity is Severity.ERROR else 33)

    def frame(self, text: str) -> str:
        return self(text, 1, 34)


def _short(found: Diagnostic) -> str:
    place = f"{found.span}: " if found.span else ""
    return _one_line(f"{place}{found.severity}[{found.code}]: {found.message}")


def _github(found: Diagnostic) -> str:
    """A workflow command (docs.github.com: workflow commands); its properties and its text are escaped differently."""
    body = [found.message, *([found.label] if found.label else []), *(f"note: {note}" for note in found.notes)]
    body += [f"help: {found.help}"] if found.help else []
    properties = {"title": found.code}
    if found.span:
        span = found.span
        lines = {"file": span.file, "line": span.line, "endLine": span.end_line}
        columns = {"col": span.column, "endColumn": span.end_column} if span.line == span.end_line else {}
        properties = {key: str(value) for key, value in {**lines, **columns, **properties}.items()}
    listed = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{found.severity} {listed}::{_escaped(chr(10).join(body))}"


def _escaped(text: str, more: str = "") -> str:
    return "".join(f"%{ord(c):02X}" if c in "%\r\n" + more else c for c in text)


def _text(found: Diagnostic, sources: Mapping[str, Sequence[str]], paint: _Paint) -> str:
    head = paint.severity(f"{found.severity}[{found.code}]", found.severity)
    lines = [f"{head}{paint(f': {_one_line(found.message)}', 1)}"]
    width = len(str(found.span.line)) if found.span else 1
    gutter = " " * (width + 1)
    if found.span:
        lines.append(f"{' ' * max(1, width - 1)}{paint.frame('-->')} {found.span}")
        lines += _excerpt(found, found.span, sources, gutter, paint)
    lines += [f"{gutter}{paint.frame('=')} {paint('note', 1)}: {_one_line(note)}" for note in found.notes]
    if found.help:
        lines.append(f"{gutter}{paint.frame('=')} {paint('help', 1, 32)}: {_one_line(found.help)}")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _excerpt(
    found: Diagnostic, span: Span, sources: Mapping[str, Sequence[str]], gutter: str, paint: _Paint
) -> list[str]:
    """The first line of the span with carets below it."""
    lines = sources.get(span.file, ())
    if span.line > len(lines):
        return []
    line, start = lines[span.line - 1], span.column - 1
    end = span.end_column - 1 if span.end_line == span.line else len(line)
    before, marked, after = line[max(0, start - 2 * WIDTH) : start], line[start:end][:WIDTH], line[end : end + WIDTH]
    marked = marked.rstrip() or marked[:1]
    shown, indent, carets = _window(_visible(before), _visible(marked), _visible(after))
    below = f"{'^' * carets} {_one_line(found.label)}".rstrip()
    bar = paint.frame("|")
    return [
        f"{gutter}{bar}",
        f"{paint.frame(str(span.line))} {bar} {shown}",
        f"{gutter}{bar} {' ' * indent}{paint.severity(below, found.severity)}",
    ]


def _lines(text: str) -> list[str]:
    """Lines as YAML counts them: str.splitlines() knows eight more line ends."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _window(before: str, marked: str, after: str) -> tuple[str, int, int]:
    """What fits in WIDTH around the marked text: (line, columns before the carets, number of carets)."""
    if _columns(before) > WIDTH // 2 and _columns(before + marked + after) > WIDTH:
        before = "…" + before[-WIDTH // 4 :]
    whole = before + marked + after
    shown = whole if _columns(whole) <= WIDTH else whole[:WIDTH] + "…"
    carets = min(_columns(marked), max(WIDTH - _columns(before), 1))
    return shown, _columns(before), max(carets, 1)


def _columns(text: str) -> int:
    """Cells of a terminal that printable text takes."""
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def _visible(text: str) -> str:
    """Tabs as spaces; what could move a terminal's cursor as a mark."""
    return "".join(TAB if c == "\t" else c if c.isprintable() else "\ufffd" for c in text)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text.replace("\n", " "))
