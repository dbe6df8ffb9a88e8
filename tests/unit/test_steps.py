"""Steps: all done, or all taken back, and what went wrong told whole."""

from __future__ import annotations

import errno

import pytest
from msgspec.structs import replace

from runtime.steps import Step, carry_out, explained, tidy_up
from runtime.sys import SyscallFailed
from schemas.diagnostic import Diagnostic, LoadFailed, VerifierRejected
from schemas.render import render


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


def test_what_a_step_that_is_still_done_needs_is_not_cleared_away() -> None:
    journal = Journal()
    steps = [
        replace(journal.step("a"), clears=True),
        journal.step("b"),
        journal.step("c", undo_error=OSError(errno.EBUSY, "busy")),
        replace(journal.step("d"), clears=True),
        journal.step("e", SyscallFailed(errno.ENOMEM, "BPF_LINK_UPDATE")),
    ]
    with pytest.raises(LoadFailed):
        carry_out(steps)
    assert journal[5:] == ["undo e", "undo d", "undo c", "undo b"]


def test_what_is_otherwise_than_before_is_told_and_is_no_failure() -> None:
    journal = Journal()
    notice = Diagnostic("A108", "the program is back, without its link")
    told = Step("b", lambda: None, lambda: notice)
    with pytest.raises(LoadFailed) as caught:
        carry_out([replace(journal.step("a"), clears=True), told, journal.step("c", LoadFailed())])
    assert caught.value.diagnostics == (notice,)
    assert journal[-1] == "undo a"


NOT_TIDY = """\
warning[A114]: the chain runs, but tidying up is not done: `b` failed: BPF_LINK_DETACH: Cannot allocate memory (ENOMEM)
  = help: the next apply or detach goes on with it
"""


def test_tidying_up_ends_with_a_warning() -> None:
    journal = Journal()
    failure = SyscallFailed(errno.ENOMEM, "BPF_LINK_DETACH")
    told = tidy_up([journal.step("a"), journal.step("b", failure), journal.step("c")])
    assert render(told, {}, "text") == NOT_TIDY
    assert journal == ["do a", "do b"]
    assert tidy_up([journal.step("c")]) == ()


def test_a_signal_takes_back_too() -> None:
    journal = Journal()
    with pytest.raises(KeyboardInterrupt):
        carry_out([journal.step("a"), journal.step("b", KeyboardInterrupt())])
    assert journal == ["do a", "do b", "undo b", "undo a"]


def test_explained() -> None:
    with pytest.raises(LoadFailed) as caught, explained("read what runs"):
        raise SyscallFailed(errno.EIO, "BPF_OBJ_GET", "/x")
    assert str(caught.value) == "A108: cannot read what runs: BPF_OBJ_GET /x: Input/output error (EIO)"
