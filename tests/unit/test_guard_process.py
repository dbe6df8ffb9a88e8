"""What a guard says of an error is that error again for whoever hears it."""

from __future__ import annotations

import json

import pytest

from runtime.guard_process import as_told, its_end
from schemas.diagnostic import ChainError, Diagnostic, LoadFailed, NotSupported, Severity, Span, VerifierRejected

WHERE = Diagnostic("A102", "taken", Span("edge.yaml", 3, 5, 3, 7), notes=("by another",), help="look", label="this one")
WHAT = Diagnostic("A108", "it failed", severity=Severity.WARNING)


@pytest.mark.parametrize(
    "error",
    [
        LoadFailed(WHERE, WHAT),
        NotSupported("link:tcx", WHAT),
        VerifierRejected(WHERE, log_path="/var/log/verifier"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_keeps_its_class_and_all_that_it_carries(error: ChainError) -> None:
    with pytest.raises(ChainError) as caught:
        its_end(json.loads(json.dumps({"error": as_told(error)})))
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)
