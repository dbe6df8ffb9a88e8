"""Steps: all done, or all taken back, and what went wrong told whole."""

from __future__ import annotations

import errno

import pytest

from runtime.steps import Step, carry_out, explained
from runtime.sys import SyscallFailed
from schemas.diagnostic import Diagnostic, LoadFailed, VerifierRejected


class Journal(list[str]):
    """Steps that write down what they do."""

    def step(self, name: str, error: BaseException | None = None, undo_error: Exception | None = None) -> Step:
        def do() -> None:
            self.append(f"do {name}")
            if error:
                raise error

        def undo() -> None:
            self.append(f"undo {name}")
            if undo_error:
                raise undo_error

        return Step(name, do, undo)


def test_all_in_order() -> None:
    journal, seen = Journal(), []
    carry_out([journal.step("a"), journal.step("b")], lambda step: seen.append(step.title))
    assert journal == ["do a", "do b"]
    assert seen == ["a", "b"]


def test_a_failure_takes_back_what_was_begun() -> None:
    journal = Journal()
    failure = SyscallFailed(errno.ENOMEM, "BPF_MAP_CREATE", "br0__fdb")
    steps = [
        journal.step("a"),
        Step("b", lambda: journal.append("do b")),
        journal.step("c", failure),
        journal.step("d"),
    ]
    with pytest.raises(LoadFailed) as caught:
        carry_out(steps)
    assert journal == ["do a", "do b", "do c", "undo c", "undo a"]
    (found,) = caught.value.diagnostics
    assert found.code == "A108"
    assert found.message == "`c` failed: BPF_MAP_CREATE br0__fdb: Cannot allocate memory (ENOMEM)"


def test_what_cannot_be_taken_back_is_told_and_the_rest_taken_back() -> None:
    journal = Journal()
    rejected = VerifierRejected(Diagnostic("L130", "no"), log_path="/log")
    steps = [journal.step("a"), journal.step("b", undo_error=OSError(errno.EBUSY, "busy")), journal.step("c", rejected)]
    with pytest.raises(VerifierRejected) as caught:
        carry_out(steps)
    assert journal[-3:] == ["undo c", "undo b", "undo a"]
    assert caught.value.log_path == "/log"
    assert [found.message for found in caught.value.diagnostics] == ["no", "cannot take back `b`: [Errno 16] busy"]


def test_a_signal_takes_back_too() -> None:
    journal = Journal()
    with pytest.raises(KeyboardInterrupt):
        carry_out([journal.step("a"), journal.step("b", KeyboardInterrupt())])
    assert journal == ["do a", "do b", "undo b", "undo a"]


def test_explained() -> None:
    with pytest.raises(LoadFailed) as caught, explained("read what runs"):
        raise SyscallFailed(errno.EIO, "BPF_OBJ_GET", "/x")
    assert str(caught.value) == "A108: cannot read what runs: BPF_OBJ_GET /x: Input/output error (EIO)"
