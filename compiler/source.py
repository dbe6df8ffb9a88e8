"""Chain text in, `Source` out: plain data as YAML 1.2 core reads it, and the span of every key and value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.diagnostic import Diagnostic, Span

Pointer = tuple[str | int, ...]
"""Path of keys and indices from the document's root, as in `("services", "br0", "ports", "p1")`."""


@dataclass(frozen=True, slots=True)
class Source:
    """A chain file: `data` is dict/list/str/int/float/bool/None; `values` and `keys` give the span at each pointer."""

    file: str
    text: str
    sha256: str
    data: Any
    values: Mapping[Pointer, Span]
    keys: Mapping[Pointer, Span]

    def root(self) -> Value:
        return Value(self, (), self.data)


@dataclass(frozen=True, slots=True)
class Value:
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


@dataclass(slots=True)
class Report:
    """Collects the diagnostics of one run, so that all mistakes of a file are told at once."""

    diagnostics: list[Diagnostic] = field(default_factory=list)

    def error(
        self, code: str, message: str, span: Span, *, label: str = "", notes: tuple[str, ...] = (), help: str = ""
    ) -> None:
        self.diagnostics.append(Diagnostic(code, message, span, label, notes, help))
