"""YAML 1.2 core, spans in awkward texts, aliases, and every way in which a file is not one document."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import yaml

from compiler import yaml12
from compiler.source import MAX_BYTES, read
from compiler.yaml12 import scalar
from schemas.diagnostic import InvalidChain, Span

SCALARS: list[tuple[str, Any]] = [
    # what YAML 1.1 reads otherwise
    ("52:54:00:12:34:56", "52:54:00:12:34:56"),
    ("22:23", "22:23"),
    ("190:20:30.15", "190:20:30.15"),
    ("no", "no"),
    ("on", "on"),
    ("y", "y"),
    ("010", 10),
    ("0b11", "0b11"),
    ("1_000", "1_000"),
    ("2001-12-14", "2001-12-14"),
    ("=", "="),
    ("+0x1f", "+0x1f"),
    # the core schema, YAML 1.2.2 section 10.3.2
    ("", None),
    ("~", None),
    ("null", None),
    ("Null", None),
    ("nULL", "nULL"),
    ("true", True),
    ("FALSE", False),
    ("tRUE", "tRUE"),
    ("0", 0),
    ("-19", -19),
    ("+12", 12),
    ("0o17", 15),
    ("0o8", "0o8"),
    ("0x1f", 31),
    ("0X1F", "0X1F"),
    ("0.", 0.0),
    ("-0.0", -0.0),
    (".5", 0.5),
    ("+12e03", 12000.0),
    ("-2E+05", -200000.0),
    (".", "."),
    ("1e", "1e"),
    (".inf", math.inf),
    ("-.Inf", -math.inf),
    ("+.INF", math.inf),
    ("inf", "inf"),
    ("\u0661", "\u0661"),  # a digit to Python, not to YAML
]


@pytest.mark.parametrize(("text", "meaning"), SCALARS, ids=[text or "empty" for text, _ in SCALARS])
def test_scalars(text: str, meaning: Any) -> None:
    value = scalar(text)
    assert (type(value), value) == (type(meaning), meaning)


def test_not_a_number() -> None:
    assert math.isnan(scalar(".nan"))


def test_quoted_scalars_are_strings() -> None:
    data = read("x", "a: '010'\nb: \"true\"\nc: |\n  1\nd: ''\ne: !!str 5\nf: ! 6\ng: !!int \"7\"\n").data
    assert data == {"a": "010", "b": "true", "c": "1\n", "d": "", "e": "5", "f": "6", "g": 7}


def spans(text: str | bytes) -> dict[tuple[str | int, ...], tuple[int, ...]]:
    source = read("x", text)
    return {p: (s.line, s.column, s.end_line, s.end_column) for p, s in source.values.items()}


def test_spans_of_collections_and_scalars() -> None:
    found = spans("a:\n  b: [1, 22]\n  c:\n  - x\n  - {y: z}\n\n# end\nd: e\n")
    assert found == {
        (): (1, 1, 8, 5),
        ("a",): (2, 3, 5, 11),
        ("a", "b"): (2, 6, 2, 13),
        ("a", "b", 0): (2, 7, 2, 8),
        ("a", "b", 1): (2, 10, 2, 12),
        ("a", "c"): (4, 3, 5, 11),
        ("a", "c", 0): (4, 5, 4, 6),
        ("a", "c", 1): (5, 5, 5, 11),
        ("a", "c", 1, "y"): (5, 9, 5, 10),
        ("d",): (8, 4, 8, 5),
    }


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_spans_with_every_line_end(end: str) -> None:
    assert spans(f"a: 1{end}{end}b: 22{end}")["b",] == (3, 4, 3, 6)


def test_spans_behind_wide_characters_count_characters() -> None:
    assert spans("a: [é, '\U0001f600日', b]\n")["a", 2] == (1, 14, 1, 15)


def test_spans_behind_a_byte_order_mark() -> None:
    assert spans(b"\xef\xbb\xbfa: 1\n")["a",] == (1, 4, 1, 5)


def test_spans_behind_a_tab() -> None:
    assert spans("a:\t1\n")["a",] == (1, 4, 1, 5)


def test_keys_have_spans() -> None:
    source = read("x", "a: {'b c': 1}\n")
    assert source.keys["a", "b c"] == Span("x", 1, 5, 1, 10)


def test_aliases_stand_for_their_values() -> None:
    source = read("x", "a: &x {b: [1]}\nc: *x\n")
    assert source.data == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert source.values["c",] == Span("x", 2, 4, 2, 6)
    assert source.values["c", "b"] == source.values["a", "b"]


def test_an_anchor_may_be_set_again() -> None:
    assert read("x", "a: &x 1\nb: &x 2\nc: *x\n").data["c"] == 2


def test_paths_are_the_chain_s_own_terms() -> None:
    value = read("x", "services: {br0: {fdb: {static: [{mac: x}]}}}\n").root().get("services", "br0", "fdb", "static")
    assert value is not None
    assert [item.path for item in value.elements()] == ["br0.fdb.static[0]"]


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidChain, match="C102"):
        read("x", "a: \ud800")


def test_the_slow_parser_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML without libyaml: same data, same spans."""
    text = "a: &x {b: [1, 'two', \"é\"]}\nc:\n- *x\n- |\n  text\n- ~\n"
    fast = yaml12.parse("x", text)
    monkeypatch.setattr(yaml12, "_Loader", yaml.SafeLoader)
    assert yaml12.parse("x", text) == fast


def test_digest_is_of_the_bytes() -> None:
    assert read("x", b"a: 1").sha256 != read("x", b"\xef\xbb\xbfa: 1").sha256


@pytest.mark.parametrize("piece", ["[", "{", "? ", "- ", "a: ", "&a ", "--- \n", "*a ", "!x "])
def test_four_megabytes_of_one_thing(piece: str) -> None:
    """Refused early: a second of a CPU is much more than it takes."""
    began = time.process_time()
    with pytest.raises(InvalidChain):
        read("x", piece * (MAX_BYTES // len(piece)))
    assert time.process_time() - began < 5
