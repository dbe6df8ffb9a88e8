"""Errors as data: what went wrong, where in the user's file, and what would mend it.

Producers make `Diagnostic` values and never print; `schemas.render` is the only place that words the frame around them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct


class Span(Struct, frozen=True, order=True):
    """A stretch of a file; lines and columns count from 1, `end_column` is the first column after it."""

    file: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def brief(self) -> str:
        """`edge.yaml:14`: the form that generated C and plans quote."""
        return f"{self.file.rsplit('/', 1)[-1]}:{self.line}"


class Severity(StrEnum):
    """An error stops; a warning is told and passed over."""

    ERROR = "error"
    WARNING = "warning"


class Diagnostic(Struct, frozen=True):
    """One finding. `code` is stable and documented in docs/errors.md; texts are lower case without a full stop.

    `message` says what is wrong, `label` stands under the caret, `notes` say what is allowed, `help` can be pasted.
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    notes: tuple[str, ...] = ()
    help: str = ""
    severity: Severity = Severity.ERROR


class ChainError(Exception):
    """Anything that is the input's or the system's fault; carries the diagnostics that explain it."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in diagnostics))
        self.diagnostics: tuple[Diagnostic, ...] = diagnostics


class InvalidChain(ChainError):
    """The chain file is wrong: every mistake found in it."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        super().__init__(*diagnostics)


class CompileFailed(ChainError):
    """clang is missing, or refused generated C (then it is a defect of bpfchain)."""


class LoadFailed(ChainError):
    """An object, a manifest or the kernel's answer to loading it: names the section and offset, or the errno."""


class VerifierRejected(LoadFailed):
    """The verifier refused a program; `log_path` holds its whole log."""

    def __init__(self, *diagnostics: Diagnostic, log_path: str = "") -> None:
        super().__init__(*diagnostics)
        self.log_path = log_path


class NotSupported(ChainError):
    """This kernel, device or version cannot do what was asked; `feature` names it."""

    def __init__(self, feature: str, *diagnostics: Diagnostic) -> None:
        super().__init__(*diagnostics)
        self.feature = feature
