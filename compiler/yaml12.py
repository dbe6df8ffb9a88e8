"""YAML text in, `Document` out: PyYAML's events built up by the rules of YAML 1.2 core, with bounds on every growth.

PyYAML's own constructor follows YAML 1.1 (`52:54:00:12:34:56` is a number there, `no` is false), keeps the second of
two equal keys, and recurses once per level; so only its parser is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

import yaml
from msgspec import Struct, field

from schemas.diagnostic import Diagnostic, InvalidChain, Span

from .source import Pointer

MAX_DEPTH = 32  # levels; the language itself needs nine
MAX_NODES = 250_000  # after aliases are expanded
MAX_DIGITS = 100  # of one number; Python refuses to convert above 4,300

_TAG_PREFIX = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_SCALAR_TAGS: Mapping[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}

_Loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # ten times faster, same marks


class Document(Struct, frozen=True):
    """One YAML document: plain data, the spans of its values and keys, and what was wrong but could be read over."""

    data: Any
    values: Mapping[Pointer, Span]
    keys: Mapping[Pointer, Span]
    problems: tuple[Diagnostic, ...]


class _Node(Struct):
    """A scalar (`data`), a list (`items` with None as key) or a mapping; `size` counts the nodes of the subtree."""

    span: Span
    data: Any = None
    items: list[tuple[_Node | None, _Node]] = field(default_factory=list)
    key: _Node | None = None  # of a mapping: the key whose value comes next
    size: int = 1
    height: int = 1  # levels, itself included
    anchor: str | None = None


def scalar(text: str) -> Any:
    """What a plain (unquoted) scalar means in YAML 1.2's core schema (section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text) if _FLOAT.fullmatch(text) else text


def parse(file: str, text: str) -> Document:
    """Read the one document in `text`. Raises InvalidChain for syntax errors and exceeded bounds."""
    builder = _Builder(file)
    loader = _Loader(text)
    try:
        while loader.check_event():
            builder.take(loader.get_event())
    except yaml.YAMLError as error:
        raise InvalidChain([*builder.problems, _syntax_error(file, text, error)]) from error
    finally:
        loader.dispose()
    root = builder.root
    if root is None or (root.data is None and not builder.problems):
        message, advice = "the file describes no chain", "begin with `chain: NAME`"
        raise InvalidChain([Diagnostic("C103", message, Span(file, 1, 1, 1, 1), help=advice)])
    values: dict[Pointer, Span] = {}
    keys: dict[Pointer, Span] = {}
    data = builder.construct(root, (), values, keys)
    return Document(data, values, keys, tuple(builder.problems))


class _Builder:
    """Builds the tree from events with a stack of its own, so that no nesting can exhaust Python's."""

    def __init__(self, file: str) -> None:
        self.root: _Node | None = None
        self.problems: dict[Diagnostic, None] = {}  # a set in order: an aliased mapping is constructed more than once
        self._file = file
        self._stack: list[_Node] = []
        self._anchors: dict[str, _Node] = {}
        self._documents = 0
        self._nodes = 0

    def take(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._start_document(event)
            case yaml.ScalarEvent():
                self._add(self._anchored(event, _Node(self._span(event), self._scalar(event))))
            case yaml.AliasEvent():
                self._add(self._alias(event))
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._open(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._close(event)

    def _start_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop("C104", "a second document begins here", self._span(event), "one file describes one chain")

    def _open(self, event: Any) -> None:
        node = self._anchored(event, _Node(self._span(event), {} if isinstance(event, yaml.MappingStartEvent) else []))
        kind = "map" if isinstance(node.data, dict) else "seq"
        if event.tag not in (None, "!", _TAG_PREFIX + kind):
            self._problem("C107", f"unknown tag `{_tag(event.tag)}`", node.span, "tags have no meaning in a chain file")
        self._stack.append(node)
        self._bound_depth(len(self._stack), node.span)

    def _close(self, event: Any) -> None:
        node = self._stack.pop()
        start, mark = node.span, event.end_mark
        end = mark.line + 1, mark.column + 1
        if event.start_mark.column == mark.column and node.items:  # a block, whose end shows only at the next value
            end = node.items[-1][1].span.end_line, node.items[-1][1].span.end_column
        node.span = Span(self._file, start.line, start.column, *end)
        self._add(node)

    def _add(self, node: _Node) -> None:
        self._nodes += 1
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        if isinstance(parent.data, dict) and parent.key is None:
            parent.key = node
            return
        parent.items.append((parent.key, node))
        parent.key = None
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        self._bound_depth(len(self._stack) + node.height, node.span)
        if parent.size > MAX_NODES:
            notes = (f"up to {MAX_NODES:,} values, each alias counted as what it stands for",)
            self._stop("C109", "the chain is too large", node.span, "more values than this are not read", notes)

    def _anchored(self, event: Any, node: _Node) -> _Node:
        node.anchor = event.anchor
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: Any) -> _Node:
        span = self._span(event)
        target = self._anchors.get(event.anchor)
        if target is None:
            advice = f"write `&{event.anchor}` in front of the value that it stands for"
            self._stop("C108", f"alias `*{event.anchor}` stands for nothing", span, "no such anchor above", help=advice)
        if any(target is node for node in self._stack):
            self._stop("C108", f"alias `*{event.anchor}` contains itself", span, "this would never end")
        return _Node(span, target.data, target.items, size=target.size, height=target.height)

    def _scalar(self, event: Any) -> Any:
        plain = event.style is None or event.style == ""
        tag = event.tag.removeprefix(_TAG_PREFIX) if event.tag else None
        if tag is None:
            return self._number(event) if plain else event.value
        if tag in ("!", "str"):
            return event.value
        if tag not in _SCALAR_TAGS:
            self._problem("C107", f"unknown tag `{_tag(event.tag)}`", self._span(event), "no meaning in a chain file")
            return event.value
        value = self._number(event)
        if type(value) is not _SCALAR_TAGS[tag]:
            self._problem("C107", f"tag `!!{tag}` does not fit this value", self._span(event), f"not of type {tag}")
        return value

    def _number(self, event: Any) -> Any:
        text = event.value
        if len(text) > MAX_DIGITS and (_INT.fullmatch(text) or _FLOAT.fullmatch(text)):
            self._problem("C109", "number is too long", self._span(event), f"more than {MAX_DIGITS} characters")
            return 0
        return scalar(text)

    def construct(self, node: _Node, pointer: Pointer, values: dict[Pointer, Span], keys: dict[Pointer, Span]) -> Any:
        """Plain data of a finished tree; fills in the spans. Recursion is bounded by MAX_DEPTH."""
        values[pointer] = node.span
        if isinstance(node.data, list):
            return [self.construct(item, (*pointer, i), values, keys) for i, (_, item) in enumerate(node.items)]
        if not isinstance(node.data, dict):
            return node.data
        mapping: dict[str, Any] = {}
        for key, item in node.items:
            assert key is not None
            name = self._key(key, mapping, keys, pointer)
            if name is not None:
                keys[*pointer, name] = key.span
                mapping[name] = self.construct(item, (*pointer, name), values, keys)
        return mapping

    def _key(
        self, key: _Node, mapping: Mapping[str, Any], keys: Mapping[Pointer, Span], pointer: Pointer
    ) -> str | None:
        """The key as a string, or None (and a problem) where it cannot be one."""
        name = key.data
        if not isinstance(name, str):
            shown = "a collection" if isinstance(name, dict | list) else _yaml_name(name)
            advice = "" if isinstance(name, dict | list) else f'put it in quotes: `"{_yaml_name(name)}"`'
            self._problem("C106", f"key is {shown}", key.span, "keys are strings", help=advice)
        elif name == "<<":
            advice = "write the keys out, or alias the whole mapping"
            self._problem("C106", "`<<` does not merge", key.span, "merge keys are not part of YAML 1.2", help=advice)
        elif not name.isprintable():
            self._problem("C106", "key holds a line end or tab", key.span, "keys are printable")
        elif name in mapping:
            notes = (f"first at {keys[*pointer, name]}",)
            self._problem("C105", f"key `{name}` is here twice", key.span, "the second one", notes)
        else:
            return name
        return None

    def _bound_depth(self, depth: int, span: Span) -> None:
        if depth > MAX_DEPTH:
            notes = (f"up to {MAX_DEPTH} levels are read",)
            self._stop("C109", "values are nested too deeply", span, "one level too many", notes)

    def _span(self, event: Any) -> Span:
        start, end = event.start_mark, event.end_mark
        return Span(self._file, start.line + 1, start.column + 1, end.line + 1, end.column + 1)

    def _problem(
        self, code: str, message: str, span: Span, label: str, notes: tuple[str, ...] = (), help: str = ""
    ) -> None:
        self.problems[Diagnostic(code, message, span, label, notes, help)] = None

    def _stop(
        self, code: str, message: str, span: Span, label: str, notes: tuple[str, ...] = (), help: str = ""
    ) -> NoReturn:
        raise InvalidChain([*self.problems, Diagnostic(code, message, span, label, notes, help)])


def _tag(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG_PREFIX) if tag.startswith(_TAG_PREFIX) else tag


def _yaml_name(data: Any) -> str:
    return "null" if data is None else str(data).lower() if isinstance(data, bool) else str(data)


_PLAINER: Mapping[str, str] = {
    "mapping values are not allowed": "a `:` that does not belong here",
    "could not find expected ':'": "a key without its `:`",
    "cannot start any token": "a character that no value can begin with",
    "did not find expected key": "neither a key of the mapping above nor its end",
    "did not find expected '-' indicator": "neither an item of the list above nor its end",
    "',' or '}'": "expected `,` or `}`",
    "',' or ']'": "expected `,` or `]`",
    "unexpected end of stream": "a quote that is not closed",
}
"""The parser's most frequent complaints, in the reader's words instead of the grammar's."""


def _syntax_error(file: str, text: str, error: yaml.YAMLError) -> Diagnostic:
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        reason = getattr(error, "reason", None) or str(error)
        return Diagnostic("C101", "not valid YAML", Span(file, 1, 1, 1, 1), str(reason))
    problem = str(error.problem)
    label = next((plain for technical, plain in _PLAINER.items() if technical in problem), problem)
    span = _place(file, text, error.problem_mark)
    notes: tuple[str, ...] = ()
    within = re.match(r"while (?:parsing|scanning) an? (.*)", str(error.context))
    if within and error.context_mark and error.context_mark.line + 1 < span.line:
        notes = (f"in the {within[1]} that begins in line {error.context_mark.line + 1}",)
    lines = text.split("\n")
    indent = re.match(r"\s*", lines[span.line - 1]) if span.line <= len(lines) else None
    advice = "indent with spaces: YAML allows no tabs there" if indent and "\t" in indent[0] else ""
    return Diagnostic("C101", "not valid YAML", span, label, notes, advice)


def _place(file: str, text: str, mark: Any) -> Span:
    """The mark as a span; one behind the last line is drawn back to the end of that line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    line = min(mark.line + 1, len(lines))
    column = mark.column + 1 if mark.line + 1 == line else len(lines[line - 1]) + 1
    return Span(file, line, column, line, column + 1)
