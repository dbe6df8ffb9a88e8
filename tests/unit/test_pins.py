"""Paths in bpffs, which takes no dots in names."""

from __future__ import annotations

from pathlib import Path

from runtime.pin import chain_pins
from runtime.trial import replaced_pin


def test_names_of_internal_links_lose_their_dots() -> None:
    pins = chain_pins(Path("/sys/fs/bpf"), "edge")
    assert pins.finished(2).link("br0.up--guard.inside").name == "br0__up--guard__inside"
    assert replaced_pin(pins, "br0.up--guard.inside").name == "br0__up--guard__inside"
