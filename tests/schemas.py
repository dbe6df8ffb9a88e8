"""What commands print for programs, against the schemas that say what that is."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

import jsonschema


def conforms(what: str, data: Any) -> None:
    """Fails unless `data` is what the schema of a `plan` or `status` says; as JSON, which has no tuples."""
    _validator(what).validate(json.loads(json.dumps(data)))


@functools.cache
def _validator(what: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((files("schemas") / f"{what}.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
