"""Problems of services in the log: once when they begin, once when they are over, whatever their words say by then."""

from __future__ import annotations

import errno
import io
from unittest.mock import Mock

import pytest

from runtime import problems, sys
from runtime.describe import Findings
from runtime.log import Log
from runtime.problems import ProblemLog
from schemas.manifest import ServiceRecord


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the services' modules say, by service; an exception is raised."""
    said: dict[str, object] = {}

    def inspect(pins: object, manifest: object, service: ServiceRecord) -> Findings:
        answer = said[service.name]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, dict)
        return Findings(problems=answer)

    monkeypatch.setattr(problems, "inspect", inspect)
    return said


class Watched:
    """One chain with two bridges, and what the log has heard since it was last asked."""

    def __init__(self) -> None:
        self._to = io.StringIO()
        self.problems = ProblemLog(Log(to=self._to))
        services = [Mock(spec=ServiceRecord) for _ in range(2)]
        for service, name in zip(services, ("br0", "br1"), strict=True):
            service.name = name
        self._record = Mock(manifest=Mock(chain="edge", services=services))

    def look(self) -> list[str]:
        self.problems.look(Mock(), self._record)
        lines = [line.split(" ", 2)[2] for line in self._to.getvalue().splitlines()]
        self._to.truncate(0)
        self._to.seek(0)
        return lines


def line(event: str, service: str, what: str) -> str:
    return f'event={event} chain=edge service={service} what="{what}"'


def test_a_problem_is_told_when_it_begins_and_when_it_is_over(found: dict[str, object]) -> None:
    watched = Watched()
    found |= {"br0": {}, "br1": {}}
    assert watched.look() == []
    found["br1"] = {"loop": "3 moves were not followed"}
    assert watched.look() == [line("problem", "br1", "3 moves were not followed")]
    found["br1"] = {"loop": "9 moves were not followed"}
    assert watched.look() == []
    found |= {"br0": {"table": "it is full"}, "br1": {}}
    assert watched.look() == [
        line("problem", "br0", "it is full"),
        line('"problem is over"', "br1", "9 moves were not followed"),
    ]
    watched.problems.forget("edge")
    assert watched.look() == [line("problem", "br0", "it is full")], "a chain that was applied anew"


def test_a_module_that_fails_is_a_problem_of_its_service(found: dict[str, object]) -> None:
    watched = Watched()
    found |= {"br0": ValueError("what is that"), "br1": {"table": "it is full"}}
    assert watched.look() == [
        line("problem", "br0", "the maps of br0 cannot be read: ValueError('what is that')"),
        line("problem", "br1", "it is full"),
    ]


def test_a_generation_that_is_replaced_meanwhile_changes_nothing(found: dict[str, object]) -> None:
    watched = Watched()
    found |= {"br0": {"table": "it is full"}, "br1": {}}
    watched.look()
    found["br0"] = sys.SyscallFailed(errno.ENOENT, "BPF_OBJ_GET")
    assert watched.look() == []
    found["br0"] = {"table": "it is full"}
    assert watched.look() == []
