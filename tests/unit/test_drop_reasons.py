"""C and Python agree on why packets are dropped."""

from __future__ import annotations

import re
from importlib.resources import files

from compiler.service import registry
from schemas.counters import DROP_REASON_LIMIT
from schemas.drop import DROP_REASONS, GLUE_DROPS

HEADER = (files("compiler") / "bpf" / "drop.h").read_text(encoding="utf-8")
IN_C = {name: int(number) for name, number in re.findall(r"\bDROP_(\w+) = (\d+)", HEADER)}


def test_numbers_and_names_are_those_of_the_header() -> None:
    reasons = {number: name.lower().replace("_", "-") for name, number in IN_C.items() if name not in LIMITS}
    assert reasons == DROP_REASONS


def test_limits_are_those_of_the_header() -> None:
    assert IN_C["REASON_LIMIT"] == DROP_REASON_LIMIT
    assert max(DROP_REASONS) < IN_C["SERVICE_FIRST"] < DROP_REASON_LIMIT


def test_services_name_every_reason_that_their_c_gives() -> None:
    for service in registry().values():
        used = {IN_C[name] for name in re.findall(r"\bDROP_(\w+)\b", service.header.read_text()) if name not in LIMITS}
        assert used <= {number for number, _ in service.drop_reasons} | set(GLUE_DROPS), service.kind


LIMITS = ("SERVICE_FIRST", "REASON_LIMIT")
