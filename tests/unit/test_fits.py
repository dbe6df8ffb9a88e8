"""What surely fits a schema, jsonschema takes as well; and chains as people write them need no jsonschema."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler import validate
from compiler.fits import surely_fits
from compiler.source import Source, read
from schemas.chains import examples
from schemas.diagnostic import InvalidChain
from tests.unit.test_chain_mutations import CHAINS, mutated
from tests.unit.toy_services import toys_only

SCALARS: list[Any] = [None, True, False, 0, 1, -1, 2, 2**70, 0.0, 1.0, 1.5, float("inf"), float("nan"), "", "a", "ab"]
DATA: list[Any] = [
    *SCALARS,
    *([one] for one in SCALARS),
    *([one, other] for one, other in itertools.product(SCALARS, repeat=2)),
    *({"a": one} for one in SCALARS),
    *({"a": one, "b": "a"} for one in SCALARS),
    {1: "a"}, {None: 1}, {"a": {"a": 1}}, {"a": []}, [[]], [[], []], [{}], {}, [], "a\n", "é", "١", "a" * 40,
]  # fmt: skip
SCHEMAS: list[Any] = [
    True,
    False,
    {},
    *({"type": name} for name in ("object", "array", "string", "boolean", "null", "integer", "number")),
    {"type": ["integer", "null"]},
    {"type": "object", "title": "nothing", "description": "nothing", "examples": [1], "default": 3},
    *({"const": one} for one in SCALARS[:11]),
    {"enum": [1, "a", None, False]},
    {"enum": [[1], {"a": 1}]},
    *({limit: 1} for limit in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")),
    *({size: 1} for size in ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")),
    *({"pattern": pattern} for pattern in ("^a$", "^[a-z]+$", "b", "\\d", "^(?!a)")),
    {"uniqueItems": True},
    {"uniqueItems": False},
    {"items": {"type": "integer"}},
    {"items": {"pattern": "^a$"}, "uniqueItems": True},
    {"required": ["a"]},
    {"dependentRequired": {"a": ["b"], "b": ["a"]}},
    {"properties": {"a": {"type": "integer"}}, "additionalProperties": False},
    {"properties": {"a": {"minimum": 1}}, "additionalProperties": {"type": "string"}},
    {"additionalProperties": {"type": "integer"}},
    {"propertyNames": {"pattern": "^a$", "maxLength": 1}},
    {"propertyNames": {"type": "string"}},
    {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]},
    {"anyOf": []},
    {"$ref": "#/$defs/word"},
    {"$ref": "#/$defs/word", "maxLength": 1},
    {"$ref": "#/$defs/tree"},
    {"$ref": "#/$defs/nowhere"},
    {"properties": {"a": {"$ref": "#/$defs/word"}}},
    # what is not known, on every level
    {"not": {}},
    {"oneOf": [{"type": "integer"}, {"minimum": 1}]},
    {"if": {"type": "integer"}, "then": {"minimum": 1}},
    {"patternProperties": {"a": {"type": "string"}}},
    {"properties": {"a": {"multipleOf": 2}}},
    {"anyOf": [{"allOf": [False]}]},
    {"items": {"prefixItems": [False]}},
    {"$id": "https://example.com/x", "type": "string"},
]
DEFINITIONS = {
    "word": {"type": "string", "pattern": "^[a-z]*$"},
    "tree": {"type": "object", "additionalProperties": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "integer"}]}},
}
KNOWN = len(SCHEMAS) - 8


def rooted(schema: Any) -> Any:
    return schema if isinstance(schema, bool) else {**schema, "$defs": DEFINITIONS}


def valid(data: Any, schema: Any) -> bool:
    """What jsonschema says, as validate.py asks it."""
    return bool(validate._validator_class()(schema).is_valid(data))


@pytest.mark.parametrize("schema", [rooted(schema) for schema in SCHEMAS if schema != {"$ref": "#/$defs/nowhere"}])
def test_a_yes_is_never_wrong(schema: Any) -> None:
    for data in DATA:
        assert not surely_fits(data, schema, schema) or valid(data, schema), data


def test_what_it_does_not_know_is_never_sure() -> None:
    for schema in map(rooted, SCHEMAS[KNOWN:]):
        assert not surely_fits([1] if "items" in schema else {"a": 2}, schema, schema)
    nowhere = rooted({"$ref": "#/$defs/nowhere"})
    assert not surely_fits("a", nowhere, nowhere)


def test_a_reference_into_a_resource_of_its_own_is_never_sure() -> None:
    """References there lead to that resource's definitions, not to the root's."""
    number = {"$id": "https://example.com/number", "$defs": {"word": {"type": "integer"}}}
    number["properties"] = {"a": {"$ref": "#/$defs/word"}}
    schema = {"$defs": {**DEFINITIONS, "number": number}, "$ref": "#/$defs/number/properties/a"}
    assert not valid("a", schema)
    assert not surely_fits("a", schema, schema)


@pytest.mark.parametrize("schema", [rooted(schema) for schema in SCHEMAS[:KNOWN]])
def test_it_is_sure_of_the_usual(schema: Any) -> None:
    """Strings and whole numbers, alone, in lists and under names: what valid chains are made of."""
    usual: list[Any] = ["a", 2, ["a"], ["a", "ab"], {"a": "a"}, {"a": 2, "b": "a"}, [], {}]
    for data in usual:
        if schema == rooted({"$ref": "#/$defs/nowhere"}) or schema == rooted({"enum": [[1], {"a": 1}]}):
            continue
        if schema == rooted({"const": 1.0}):
            continue
        assert surely_fits(data, schema, schema) == valid(data, schema), data


values = st.recursive(
    st.sampled_from([scalar for scalar in SCALARS if scalar == scalar]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=6,
)
flat = st.sampled_from([schema for schema in SCHEMAS if not isinstance(schema, bool) and "$ref" not in schema])
merged = st.lists(flat, min_size=1, max_size=3).map(lambda parts: {k: v for part in parts for k, v in part.items()})
# With an `$id` a schema is a resource of its own, and references in it lead to its own definitions.
combined = merged.map(lambda schema: rooted(schema) if "$id" in schema else schema)


@settings(max_examples=2_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(values, combined, combined)
def test_a_yes_is_never_wrong_in_combinations(data: Any, outer: Any, inner: Any) -> None:
    for schema in map(
        rooted, (outer, {**outer, "properties": {"a": inner}, "items": inner}, {"anyOf": [outer, inner]})
    ):
        assert not surely_fits(data, schema, schema) or valid(data, schema)


def sure(text: bytes) -> tuple[bool, Source]:
    source = read("fuzz.yaml", text)
    return validate._surely_sound(source), source


@settings(max_examples=2_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**64))
def test_of_mutated_chains_none_is_taken_that_jsonschema_refuses(seed: int) -> None:
    with toys_only():
        try:
            found, source = sure(mutated(seed))
        except InvalidChain:
            return
        assert not (found and validate._shape_errors(source))


def test_example_chains_and_toys_need_no_jsonschema() -> None:
    with toys_only():
        assert all(sure(text)[0] for text in CHAINS)
    for chain in examples().values():
        assert sure(chain.read_bytes())[0]
    asked = "import sys; from compiler.build import lowered; lowered(sys.argv[1]); print('jsonschema' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", asked, str(examples()["guarded-bridge"])], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "False\n"
