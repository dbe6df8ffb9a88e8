"""Chain text in, `Source` out: plain data as YAML 1.2 core reads it, and the span of every key and value."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from schemas.diagnostic import Diagnostic, InvalidChain, Span

Pointer = tuple[str | int, ...]
"""Path of keys and indices from the document's root, as in `("services", "br0", "ports", "p1")`."""

MAX_BYTES = 4 * 1024 * 1024  # some 100,000 prefixes; more than that is not written by hand


class Source(Struct, frozen=True):
    """A chain file: `data` is dict/list/str/int/float/bool/None; `values` and `keys` give the span at each pointer.

    `problems` are the mistakes that left the rest readable (a duplicate key, say): they are told with all others.
    """

    file: str
    text: str
    sha256: str
    data: Any
    values: Mapping[Pointer, Span]
    keys: Mapping[Pointer, Span]
    problems: tuple[Diagnostic, ...] = ()

    def root(self) -> Value:
        return Value(self, (), self.data)


class Value(Struct, frozen=True):
    """A piece of plain data that remembers where it stands."""

    source: Source
    pointer: Pointer
    data: Any

    @property
    def span(self) -> Span:
        return self.source.values[self.pointer]

    @property
    def key_span(self) -> Span:
        """Span of the key that this value stands under; the value's own for list items."""
        return self.source.keys.get(self.pointer, self.span)

    @property
    def path(self) -> str:
        """In a chain's own terms, for a value of a service: `br0.fdb.aging`, `guard.block.sources[3]`."""
        parts = self.pointer[1:] if self.pointer[:1] == ("services",) else self.pointer
        return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")

    def get(self, *keys: str) -> Value | None:
        """The value below a path of mapping keys, or None where the file does not have it."""
        value: Value = self
        for key in keys:
            if not isinstance(value.data, dict) or key not in value.data:
                return None
            value = Value(value.source, (*value.pointer, key), value.data[key])
        return value

    def items(self) -> Iterator[tuple[str, Value]]:
        """The entries of a mapping, in the order of the file."""
        for key, data in self.data.items():
            yield key, Value(self.source, (*self.pointer, key), data)

    def elements(self) -> Iterator[Value]:
        """The items of a list; a scalar counts as a list of itself."""
        if not isinstance(self.data, list):
            yield self
            return
        for index, data in enumerate(self.data):
            yield Value(self.source, (*self.pointer, index), data)


class Report(Struct):
    """Collects the diagnostics of one run, so that all mistakes of a file are told at once."""

    diagnostics: list[Diagnostic] = field(default_factory=list)

    def error(
        self, code: str, message: str, span: Span, *, label: str = "", notes: tuple[str, ...] = (), help: str = ""
    ) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, label, notes, help))

    def twice(self, code: str, message: str, second: Span, first: Span, help: str = "remove one of the two") -> None:
        """What a file may have once, and has at both of these places."""
        self.error(code, message, second, label="the second one", notes=(f"the first one is at {first}",), help=help)


def read(file: str, text: str | bytes | None = None) -> Source:
    """Read the chain file `file`, or `text` under that name. Raises InvalidChain where it is not one YAML document."""
    from . import yaml12  # PyYAML costs 20 ms, which commands that only name these types need not pay

    raw = _load(file) if text is None else text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    decoded = _decode(file, raw)
    document = yaml12.parse(file, decoded)
    digest = hashlib.sha256(raw).hexdigest()
    return Source(file, decoded, digest, document.data, document.values, document.keys, document.problems)


def readable(file: str, raw: bytes | None = None) -> str:
    """The text of a file that `read` may have refused, as far as it can be shown beside a diagnostic."""
    try:
        return (_load(file) if raw is None else raw).decode("utf-8-sig", "replace")
    except InvalidChain:
        return ""


def _load(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidChain([Diagnostic("C100", f"cannot read `{file}`: {reason}")]) from error


def _decode(file: str, raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        notes = (f"a chain file has up to {MAX_BYTES:,} bytes",)
        raise InvalidChain([Diagnostic("C109", "file is too large", Span(file, 1, 1, 1, 1), notes=notes)])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig")
        message, label = f"byte 0x{raw[error.start]:02x} is not UTF-8", "up to here all is well"
        advice = "save the file as UTF-8"
        raise InvalidChain([Diagnostic("C102", message, _end_of(file, before), label, (), advice)]) from error
    for index, character in enumerate(text):
        if not character.isprintable() and _forbidden(character):
            message, label = f"character U+{ord(character):04X} is not allowed", "here"
            notes = ("a chain file holds printable text, tabs and line ends",)
            raise InvalidChain([Diagnostic("C102", message, _end_of(file, text[:index]), label, notes)])
    return text


def _forbidden(character: str) -> bool:
    """Control characters, those that hide or reorder text, and line ends that editors and YAML 1.2 do not count."""
    import unicodedata

    if character in "\t\n\r":
        return False
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDIRECTIONAL


_BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"


def _end_of(file: str, text: str) -> Span:
    """The place right behind `text`, the file's beginning."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    line, column = len(lines), len(lines[-1]) + 1
    return Span(file, line, column, line, column + 1)
