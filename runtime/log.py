"""Structured logs: one line a record on standard error, `time=… level=… event=… key=value …`."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

from msgspec import Struct, field

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:/+@%")


class Log(Struct, frozen=True):
    """Writes records that all carry `fields`; `to` is where they go, standard error if None."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    to: TextIO | None = None

    def bound(self, **fields: Any) -> Log:
        """A log whose records carry these fields as well."""
        return Log({**self.fields, **fields}, self.to)

    def info(self, event: str, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, error: BaseException | None = None, **fields: Any) -> None:
        """Something has gone wrong; `error` is told with where it comes from."""
        if error is not None:
            text = "".join(traceback.format_exception(error)).rstrip()
            fields |= {"error": f"{type(error).__name__}: {error}", "traceback": text}
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        record = {"time": _now(), "level": level, "event": event, **self.fields, **fields}
        line = " ".join(f"{key}={_value(value)}" for key, value in record.items())
        stream = self.to or sys.stderr
        stream.write(f"{line}\n")
        stream.flush()


def _now() -> str:
    """RFC 3339, UTC, milliseconds."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03}Z"


def _value(value: Any) -> str:
    """As it is where that is one word; as a JSON string otherwise, which is one line too."""
    text = str(value)
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)
