"""Every diagnostic of the language, whole: diagnostics/CODE-WHAT.yaml is the chain, the .txt beside it what is printed.

`pytest --update-golden` writes the .txt files anew; read the difference before it is committed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import compiler
from compiler.resolve import resolve
from compiler.source import MAX_BYTES, read
from schemas.diagnostic import Diagnostic, InvalidChain
from schemas.render import render
from tests.unit.toy_services import toys_only

ROOT = Path(compiler.__file__).parent.parent
CASES = sorted((Path(__file__).parent / "diagnostics").glob("*.yaml"))
SCRIPTED = {"C100", "C102"}  # cases below: not files of text

LANGUAGE = [
    ROOT / "compiler" / f"{name}.py"
    for name in ["source", "yaml12", "validate", "wording", "resolve", "links", "topology", "addresses", "devices"]
]
CODE = re.compile(r'"([A-Z][0-9]{3})"')


def findings(text: str | bytes) -> tuple[Diagnostic, ...]:
    with toys_only(), pytest.raises(InvalidChain) as caught:
        resolve(read("chain.yaml", text))
    return caught.value.diagnostics


def printed(text: str | bytes) -> str:
    shown = text if isinstance(text, str) else text.decode("utf-8-sig", "replace")
    return render(findings(text), {"chain.yaml": shown})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_whole_text(case: Path, request: pytest.FixtureRequest) -> None:
    text = printed(case.read_text(encoding="utf-8"))
    golden = case.with_suffix(".txt")
    if request.config.getoption("--update-golden", default=False):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", [case for case in CASES if case.stem[0] == "C"], ids=lambda case: case.stem)
def test_each_case_shows_its_code_and_no_cascade(case: Path) -> None:
    codes = {found.code for found in findings(case.read_text(encoding="utf-8"))}
    assert codes == {case.stem.split("-")[0]}


def test_every_code_of_the_language_has_a_case() -> None:
    raised = {code for path in LANGUAGE for code in CODE.findall(path.read_text(encoding="utf-8"))}
    assert raised - {case.stem.split("-")[0] for case in CASES} == SCRIPTED


def test_every_code_in_the_tree_is_documented() -> None:
    documented = set(re.findall(r"^### ([A-Z][0-9]{3}): ", (ROOT / "schemas/errors.md").read_text("utf-8"), re.M))
    sources = [path for folder in ("compiler", "runtime", "schemas") for path in (ROOT / folder).rglob("*.py")]
    raised = {code for path in sources for code in CODE.findall(path.read_text(encoding="utf-8"))}
    assert raised - documented == set(), "without an entry in schemas/errors.md"
    assert documented - raised == set(), "in schemas/errors.md, but raised nowhere"


def test_errors_md_is_the_same_in_docs() -> None:
    shipped = (ROOT / "schemas/errors.md").read_text(encoding="utf-8")
    assert (ROOT / "docs/errors.md").read_text(encoding="utf-8") == shipped, "copy schemas/errors.md to docs/"


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidChain) as caught:
        read(str(tmp_path / "absent.yaml"))
    assert render(caught.value.diagnostics, {}) == (
        f"error[C100]: cannot read `{tmp_path}/absent.yaml`: No such file or directory\n"
    )


def test_not_utf8() -> None:
    assert printed(b"chain: edge\nmode: \xff\n") == (
        "error[C102]: byte 0xff is not UTF-8\n"
        " --> chain.yaml:2:7\n"
        "  |\n"
        "2 | mode: \N{REPLACEMENT CHARACTER}\n"
        "  |       ^ up to here all is well\n"
        "  = help: save the file as UTF-8\n"
    )


@pytest.mark.parametrize("character", ["\0", "\x07", "\x85", "\u2028", "\u202e", "\x1b"])
def test_characters_that_hide(character: str) -> None:
    assert printed(f"chain: a{character}b\n") == (
        f"error[C102]: character U+{ord(character):04X} is not allowed\n"
        " --> chain.yaml:1:9\n"
        "  |\n"
        "1 | chain: a\N{REPLACEMENT CHARACTER}b\n"
        "  |         ^ here\n"
        "  = note: a chain file holds printable text, tabs and line ends\n"
    )


def test_too_much_text() -> None:
    assert printed("#" * (MAX_BYTES + 1)).startswith("error[C109]: file is too large\n --> chain.yaml:1:1\n")


def test_too_deep() -> None:
    (found,) = findings("chain: " + "[" * 5000 + "]" * 5000)
    assert (found.code, found.message) == ("C109", "values are nested too deeply")


def test_billion_laughs() -> None:
    lines = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    (found,) = findings("\n".join(lines))
    assert (found.code, found.message) == ("C109", "the chain is too large")


def test_depth_is_counted_through_aliases() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100))]
    (found,) = findings("\n".join(lines))
    assert (found.code, found.message) == ("C109", "values are nested too deeply")
