"""Templates write C strictly: other delimiters than Jinja's own, and nothing without a typed filter."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import jinja2
import pytest

from compiler.templates import FILTERS, CText, Remark, Rendering, environment


def rendered(folder: Path, text: str, **values: Any) -> str:
    (folder / "unit.j2").write_text(text)
    return environment(folder).get_template("unit.j2").render(**values)


def test_c_is_left_alone(tmp_path: Path) -> None:
    text = "static int x[1][1] = {{0}}; /* 100 % { } <<1 */\n#define A(a) {% a %} {# a #}\n"
    assert rendered(tmp_path, text) == text


def test_statements_leave_no_lines(tmp_path: Path) -> None:
    text = "<% for n in numbers %>\n\tcase <{ n }>:\n<% endfor %>\n<# a comment #>\ndone\n"
    assert rendered(tmp_path, text, numbers=[1, 2]) == "\tcase 1:\n\tcase 2:\ndone\n"


@pytest.mark.parametrize("value", ["text", None, True, 1.5, b"x", [1]])
def test_what_has_passed_no_filter_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match="without a typed filter"):
        rendered(tmp_path, "<{ value }>", value=value)


def test_an_undefined_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        rendered(tmp_path, "<{ missing }>")


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(jinja2.TemplateNotFound, match="absent"):
        environment(tmp_path).get_template("absent.j2")


def test_numbers_and_c_text_are_written(tmp_path: Path) -> None:
    assert rendered(tmp_path, "<{ number }> <{ code }>", number=7, code=CText("a->b")) == "7 a->b"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("c_ident", "guard-2", "guard_2"),
        ("c_ident", "br0", "br0"),
        ("be32", ipaddress.IPv4Address("198.51.100.1"), "bpf_htonl(0xc6336401)"),
        ("be32", ipaddress.IPv4Address("0.0.0.1"), "bpf_htonl(0x00000001)"),
        ("mac", "52:54:00:12:34:56", "0x563412005452ULL"),
        ("hex32", 255, "0x000000ffU"),
        ("hex64", 1 << 63, "0x8000000000000000ULL"),
        ("comment", "ends */ here /* or\nthere", "ends * / here / * or there"),
        ("comment", "**//", "** //"),
        ("comment", "a\\", "a/"),
        ("c_text", "x + 1", "x + 1"),
    ],
)
def test_filter(name: str, value: Any, expected: str) -> None:
    assert FILTERS[name](value) == expected
    assert isinstance(FILTERS[name](value), CText)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("c_ident", ""),
        ("c_ident", "a b"),
        ("c_ident", "2nd"),
        ("c_ident", 'x"; y'),
        ("c_ident", "naïve"),
        ("mac", "52:54:00:12:34"),
        ("mac", "52-54-00-12-34-56"),
        ("mac", "52:54:00:12:34:5g"),
        ("hex32", 1 << 32),
        ("hex32", -1),
        ("hex64", 1 << 64),
    ],
)
def test_filter_refuses(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"not a|is no"):
        FILTERS[name](value)


@pytest.mark.parametrize("name", ["c_ident", "c_field", "c_text", "loaded", "mac"])
def test_remarks_reach_comments_only(name: str) -> None:
    remark = Remark("52:54:00:12:34:56" if name == "mac" else "remark")
    assert str(FILTERS["comment"](remark)) == str(remark)
    with pytest.raises(TypeError, match="is for comments, and reaches C"):
        FILTERS[name](remark)


def test_a_rendering_is_written_when_it_is_asked_for(tmp_path: Path) -> None:
    rendering = Rendering(tmp_path, "unit.j2", {"number": 7})
    (tmp_path / "unit.j2").write_text("<{ number }>;\n")
    assert rendering.text() == "7;\n"
