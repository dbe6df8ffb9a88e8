"""The frame around diagnostics: text in awkward lines, and the forms for editors, programs and CI."""

from __future__ import annotations

import json

from schemas.diagnostic import Diagnostic, Severity, Span
from schemas.render import WIDTH, render

TEXT = "chain: edge\nlinks:\n  - [gw.wan, fw.inside]\n"
FOUND = Diagnostic(
    "C201",
    "link to unknown service `fw`",
    Span("edge.yaml", 3, 14, 3, 16),
    "no service has this name",
    ("services here: firewall, gw, lb",),
    "did you mean `firewall`?",
)


def test_text() -> None:
    """The example of docs: what a person sees."""
    lines = "\n" * 28 + "  - [gw.wan, fw.inside]\n"
    span = Span("chains/edge.yaml", 29, 14, 29, 16)
    found = Diagnostic(FOUND.code, FOUND.message, span, FOUND.label, FOUND.notes, FOUND.help)
    assert render([found], {"chains/edge.yaml": lines}) == (
        "error[C201]: link to unknown service `fw`\n"
        " --> chains/edge.yaml:29:14\n"
        "   |\n"
        "29 |   - [gw.wan, fw.inside]\n"
        "   |              ^^ no service has this name\n"
        "   = note: services here: firewall, gw, lb\n"
        "   = help: did you mean `firewall`?\n"
    )


def test_nothing_found() -> None:
    assert [render([], {}, form) for form in ("text", "short", "github")] == ["", "", ""]
    assert json.loads(render([], {}, "json")) == {"format": 1, "diagnostics": []}


def test_findings_are_set_apart() -> None:
    assert render([FOUND, FOUND], {}).count("\n\nerror") == 1


def test_without_a_source_or_a_span() -> None:
    assert render([Diagnostic("L107", "no")], {}) == "error[L107]: no\n"
    assert render([Diagnostic("C103", "empty", Span("x", 1, 1, 1, 1))], {}) == "error[C103]: empty\n --> x:1:1\n"


def test_short() -> None:
    assert render([FOUND], {}, "short") == "edge.yaml:3:14: error[C201]: link to unknown service `fw`\n"
    assert render([Diagnostic("L107", "no")], {}, "short") == "error[L107]: no\n"


def test_json_is_complete() -> None:
    assert json.loads(render([FOUND, Diagnostic("L107", "né", severity=Severity.WARNING)], {}, "json")) == {
        "format": 1,
        "diagnostics": [
            {
                "code": "C201",
                "message": "link to unknown service `fw`",
                "span": {"file": "edge.yaml", "line": 3, "column": 14, "end_line": 3, "end_column": 16},
                "label": "no service has this name",
                "notes": ["services here: firewall, gw, lb"],
                "help": "did you mean `firewall`?",
                "severity": "error",
            },
            {
                "code": "L107",
                "message": "né",
                "span": None,
                "label": "",
                "notes": [],
                "help": "",
                "severity": "warning",
            },
        ],
    }


def test_github_escapes_what_would_end_a_command() -> None:
    found = Diagnostic("C1", "100%\n::error", Span("a,b:c.yaml", 1, 2, 3, 4), help="x")
    assert render([found], {}, "github") == (
        "::error file=a%2Cb%3Ac.yaml,line=1,endLine=3,title=C1::100%25%0A::error%0Ahelp: x\n"
    )


def line_and_carets(text: str, span: Span) -> tuple[str, str]:
    lines = render([Diagnostic("C1", "m", span)], {"x": text}).split("\n")
    return lines[3].partition("| ")[2], lines[4].partition("| ")[2]


def test_tabs_before_the_caret() -> None:
    assert line_and_carets("a:\tbc\n", Span("x", 1, 4, 1, 6)) == ("a:    bc", "      ^^")


def test_wide_and_combining_characters() -> None:
    assert line_and_carets("日本e\u0301: x\n", Span("x", 1, 7, 1, 8)) == ("日本e\u0301: x", "       ^")


def test_several_lines_are_clipped_to_the_first() -> None:
    assert line_and_carets("a: [1,  \n2]\n", Span("x", 1, 4, 2, 3)) == ("a: [1,", "   ^^^")


def test_behind_the_end_of_a_line() -> None:
    assert line_and_carets("ab\n", Span("x", 1, 3, 1, 4)) == ("ab", "  ^")


def test_a_terminal_is_not_steered() -> None:
    text = render([Diagnostic("C1", "\x1b[2J", Span("x", 1, 1, 1, 2), "\x1b]0;")], {"x": "\x1b[31m\n"})
    assert "\x1b" not in text


def test_a_long_line_is_shown_around_the_caret() -> None:
    line, carets = line_and_carets("a" * 5000 + "HERE" + "b" * 5000, Span("x", 1, 5001, 1, 5005))
    assert len(line) <= WIDTH + 2
    assert line[carets.index("^") : len(carets)] == "HERE"


def test_colour_only_where_asked() -> None:
    plain, coloured = render([FOUND], {"edge.yaml": TEXT}), render([FOUND], {"edge.yaml": TEXT}, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[1;31merror[C201]\x1b[0m" in coloured
