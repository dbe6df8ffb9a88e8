"""A line on a terminal that says what is going on, and is gone when it is done; nothing where there is no terminal."""

from __future__ import annotations

import sys
from typing import Self


class ProgressLine:
    """For the length of a `with` block, on stderr."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
