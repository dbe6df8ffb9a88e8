"""Chains that run in; what is wrong with their services, told in the log when it begins and when it is over."""

from __future__ import annotations

import contextlib
import errno

from schemas.manifest import ServiceRecord

from . import sys
from .describe import inspect
from .log import Log
from .pin import GenerationPins
from .record import Record


class ProblemLog:
    """What `status` would call a problem of a service, for those who do not ask it."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._told: dict[tuple[str, str], dict[str, str]] = {}

    def look(self, pins: GenerationPins, record: Record) -> None:
        """Tells what is new. A generation that is replaced meanwhile is passed over: the next one is looked at."""
        manifest = record.manifest
        for service in manifest.services:
            with contextlib.suppress(_Replaced):
                self._tell(manifest.chain, service.name, _problems(pins, record, service))

    def forget(self, chain: str) -> None:
        """It is gone."""
        self._told = {place: told for place, told in self._told.items() if place[0] != chain}

    def _tell(self, chain: str, service: str, found: dict[str, str]) -> None:
        told = self._told.get((chain, service), {})
        log = self._log.bound(chain=chain, service=service)
        for key in found.keys() - told.keys():
            log.warning("problem", what=found[key])
        for key in told.keys() - found.keys():
            log.info("problem is over", what=told[key])
        self._told[chain, service] = found


class _Replaced(Exception):
    """The maps of the generation have gone."""


def _problems(pins: GenerationPins, record: Record, service: ServiceRecord) -> dict[str, str]:
    """By a key that stays as long as it is the same problem. A module that fails is one as well."""
    try:
        return dict(inspect(pins, record.manifest, service).problems)
    except sys.SyscallFailed as failure:
        if failure.errno == errno.ENOENT:
            raise _Replaced from failure
        return {"unreadable": str(failure)}
    except Exception as error:
        return {"unreadable": f"the maps of {service.name} cannot be read: {error!r}"}
