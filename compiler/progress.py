"""What a terminal shows while a chain compiles."""

from __future__ import annotations

from schemas.terminal import ProgressLine

from .clang import CompiledObject


class CompileProgress(ProgressLine):
    """Counts programs while they compile."""

    def __init__(self) -> None:
        super().__init__()
        self._done = 0

    def __call__(self, compiled: CompiledObject, total: int) -> None:
        self._done += 1
        self.show(f"compiling {self._done}/{total} {compiled.unit.program.name}")
