"""The commands of the language: what they print where, how they exit, and what they do not need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

import compiler
from compiler.cli import explain, schema, validate
from compiler.service import registry
from compiler.validate import chain_schema, merged_schema
from tests.unit.toy_services import toys, toys_only

ROOT = Path(compiler.__file__).parent.parent
GOOD = """\
chain: edge
interfaces: {wan: {device: eth0}}
services: {guard: {kind: tube}}
links: [[wan, guard.outside], [guard.inside, host]]
"""
BAD = GOOD.replace("guard.inside", "gard.inside")


def run(command: object, *arguments: str, text: str | None = None) -> Result:
    with toys_only():
        return CliRunner().invoke(command, arguments, input=text)  # type: ignore[arg-type]


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def test_a_right_file(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    result = run(validate, str(path))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"{path}: no mistakes\n")


def test_a_wrong_file(bad: Path) -> None:
    result = run(validate, str(bad))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"error[C201]: link to unknown service `gard`\n --> {bad}:4:32\n")
    assert result.stderr == f"1 mistake in {bad}\n"


def test_several_files_and_standard_input(bad: Path, tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.yaml")
    result = run(validate, str(bad), "-", absent, "--format", "short", text=GOOD)
    assert result.exit_code == 1
    assert [line.split(": ")[-3:][0] for line in result.stdout.splitlines()] == [f"{bad}:4:32", "error[C100]"]
    assert result.stderr == "2 mistakes in 2 of 3 files\n"


def test_json_is_printed_even_where_nothing_is_found() -> None:
    result = run(validate, "-", "--format", "json", text=GOOD)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"format": 1, "diagnostics": []})


def test_usage() -> None:
    assert run(validate).exit_code == 2
    assert run(validate, "-", "--format", "xml", text=GOOD).exit_code == 2
    assert run(explain, "Z999").exit_code == 2


def test_explain() -> None:
    result = run(explain, "c201")
    assert result.exit_code == 0
    assert result.stdout.startswith("C201: a link to something that is not there\n\nNo interface")
    assert "C202" not in result.stdout


def test_explain_ends_at_the_next_heading() -> None:
    assert "##" not in run(explain, "C109").stdout


def test_schema_prints_the_merged_one() -> None:
    with toys_only():
        assert json.loads(run(schema).stdout) == merged_schema()


def test_merged_schema_accepts_and_refuses() -> None:
    with toys_only():
        merged = merged_schema()
    jsonschema.Draft202012Validator.check_schema(merged)
    validator = jsonschema.Draft202012Validator(merged)
    tube = {"kind": "tube", "aging": 5}
    document = {
        "chain": "a",
        "interfaces": {"b": {"device": "c"}},
        "services": {"d": tube},
        "links": [["b", "d.outside"]],
    }
    validator.validate(document)
    tube["aging"] = 0  # refused by a definition that had to be moved along
    assert not validator.is_valid(document)
    tube["aging"], tube["kind"] = 5, "sieve"
    assert not validator.is_valid(document)


def undescribed(node: object, path: str = "") -> list[str]:
    """Every key of a schema's mappings that an editor could not explain."""
    if isinstance(node, list):
        return [found for item in node for found in undescribed(item, path)]
    if not isinstance(node, dict):
        return []
    properties = node.get("properties", {})
    missing = [f"{path}/{key}" for key, item in properties.items() if "description" not in item]
    inner = {key: item for key, item in node.items() if key not in ("const", "enum", "examples", "default", "if")}
    return missing + [found for key, item in inner.items() for found in undescribed(item, f"{path}/{key}")]


@pytest.mark.parametrize("kind", ["", *registry()])
def test_every_key_has_a_description(kind: str) -> None:
    checked = registry()[kind].json_schema() if kind else chain_schema()
    jsonschema.Draft202012Validator.check_schema(checked)
    assert undescribed(checked) == []
    assert "description" in checked


@pytest.mark.parametrize("kind", registry())
def test_services_refuse_unknown_keys(kind: str) -> None:
    checked = registry()[kind].json_schema()
    assert checked["additionalProperties"] is False
    assert checked["properties"]["kind"]["const"] == kind


def test_toys_are_described() -> None:
    assert [undescribed(toy.json_schema()) for toy in toys().values()] == [[], [], []]


def test_validate_loads_neither_clang_nor_runtime(bad: Path) -> None:
    program = (
        "import sys; from compiler.cli import check; assert check(sys.argv[1], {});"
        "loaded = {'runtime', 'jinja2', 'elftools', 'pyroute2', 'rich', 'compiler.clang'} & set(sys.modules);"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(bad)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
