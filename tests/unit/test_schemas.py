"""The schemas of what commands print: theirs are the words of the code, and nothing is said that they do not know."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from compiler.cli import schema
from runtime.plan import Action, Effect, Fate, Kind, Way, make_plan
from runtime.plan_text import plan_data
from schemas.manifest import Mode
from tests.schemas import conforms
from tests.unit.manifests import sample
from tests.unit.test_plan import HOST


def read(what: str) -> Any:
    return json.loads((files("schemas") / f"{what}.schema.json").read_text(encoding="utf-8"))


def test_the_words_of_plans_are_those_of_the_code() -> None:
    found = read("plan")
    change = found["$defs"]["change"]["properties"]
    assert found["properties"]["way"]["enum"] == [str(way) for way in Way]
    assert change["action"]["enum"] == [str(action) for action in Action]
    assert set(change["kind"]["enum"]) == {str(kind) for kind in Kind}
    assert set(change["effect"]["enum"]) == {str(effect) for effect in Effect}
    assert set(change["state"]["enum"]) == {None, *(str(fate) for fate in Fate)}
    assert read("status")["$defs"]["interface"]["properties"]["mode"]["enum"] == [str(mode) for mode in Mode]


def test_a_plan_with_something_more_does_not_conform() -> None:
    data = plan_data(make_plan(sample(), None, HOST))
    conforms("plan", data)
    for wrong in ({**data, "more": 1}, {**data, "way": "by magic"}, {**data, "format": 2}):
        with pytest.raises(jsonschema.ValidationError):
            conforms("plan", wrong)


@pytest.mark.parametrize("what", ["plan", "status", "manifest"])
def test_schemas_are_printed(what: str) -> None:
    printed = CliRunner().invoke(schema, [what])
    assert printed.exit_code == 0
    assert json.loads(printed.output) == read(what)
