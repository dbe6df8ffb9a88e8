"""Every kind of service has a packet table, and every table holds at every hook and for the service's model."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import cast

import pytest

from compiler.service import registry
from schemas.manifest import Hook
from tests.services.harness import Bench, InjectedModel, Scene

HERE = Path(__file__).parent


def built_in_kinds() -> list[str]:
    """The kinds of this tree; a third party's bring tests of their own."""
    return [kind for kind in registry() if importlib.util.find_spec(f"compiler.services.{kind}")]


def table(kind: str) -> tuple[Scene, ...]:
    if not (HERE / f"test_{kind}.py").exists():
        return ()
    return getattr(importlib.import_module(f"tests.services.test_{kind}"), "SCENES", ())


CASES = [pytest.param(scene, id=f"{kind}-{scene.name}") for kind in built_in_kinds() for scene in table(kind)]


@pytest.mark.parametrize("kind", built_in_kinds())
def test_every_kind_has_a_table(kind: str) -> None:
    assert table(kind), f"SCENES is missing in tests/services/test_{kind}.py"


@pytest.mark.parametrize("kind", built_in_kinds())
def test_a_table_reaches_every_verdict_of_its_kind(kind: str) -> None:
    verdicts = {row.verdict for scene in table(kind) for row in scene.rows}
    reasons = {f"drop {name}" for _, name in registry()[kind].drop_reasons}
    assert reasons <= verdicts, "a reason to drop that no row shows"
    upcalls = {f"slow-path {name}" for _, name in registry()[kind].slow_path_reasons}
    copies = {f"slow-path {name}" for scene in table(kind) for row in scene.rows for name in row.copies}
    assert upcalls <= verdicts | copies, "a reason to send a packet up that no row shows"
    assert any(verdict.startswith("out ") for verdict in verdicts)


@pytest.mark.parametrize("kind", built_in_kinds())
def test_no_row_is_there_twice(kind: str) -> None:
    for scene in table(kind):
        names = [row.name for row in scene.rows]
        assert len(set(names)) == len(names), scene.name


@pytest.mark.parametrize("scene", CASES)
def test_the_model_agrees_with_the_table(scene: Scene) -> None:
    model = scene.model()
    found = {}
    for row in scene.rows:
        receive = cast("InjectedModel", model).inject if row.injected else model.receive
        found[row.name] = receive(row.port, row.frame)
    assert found == {row.name: row.verdict for row in scene.rows}


@pytest.mark.kernel
@pytest.mark.parametrize("hook", list(Hook), ids=str)
@pytest.mark.parametrize("scene", CASES)
def test_the_kernel_agrees_with_the_table(scene: Scene, hook: Hook, tmp_path: Path) -> None:
    with Bench(scene.config, scene.ports, hook, tmp_path, scene.entries) as bench:
        for row in scene.rows:
            outcome = bench.receive(row.port, row.frame, injected=row.injected)
            expected = row.frame if row.out is None else row.out
            found = (row.name, outcome.verdict, outcome.frame, outcome.copies)
            assert found == (row.name, row.verdict, expected, row.copies)
