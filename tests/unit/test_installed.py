"""What is installed is looked up once, and again when something was installed; a chain imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from compiler.installed import Installed, installed
from compiler.service import registry
from schemas.chains import examples


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python imports from, and a cache that knows nothing."""
    monkeypatch.setenv("BPFCHAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    (tmp_path / "packages").mkdir()
    installed.cache_clear()
    yield tmp_path / "packages"
    installed.cache_clear()


def look() -> Installed:
    """As the next process would."""
    installed.cache_clear()
    return installed()


def install(folder: Path) -> None:
    distribution = folder / "brings_services-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: brings-services\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[bpfchain.services]\nthing = nowhere_at_all:SERVICE\n")


def test_it_is_looked_up_once(folder: Path) -> None:
    before = look()
    with mock.patch("compiler.installed._look", side_effect=AssertionError):
        assert look() == before


def test_what_is_installed_later_is_found(folder: Path) -> None:
    assert not look().services
    install(folder)
    assert look().services
    for file in (folder / "brings_services-1.0.dist-info").iterdir():
        file.unlink()
    (folder / "brings_services-1.0.dist-info").rmdir()
    assert not look().services


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": "1"}', b"7"])
def test_what_is_kept_and_not_whole_is_looked_up_again(folder: Path, content: bytes) -> None:
    before = look()
    (kept,) = (folder.parent / "cache" / "installed").iterdir()
    kept.write_bytes(content)
    assert look() == before


def test_every_built_in_service_is_where_its_kind_says() -> None:
    assert {"bridge", "ddos", "router"} <= set(registry())
    assert all(service.kind == kind for kind, service in registry().items())
    assert "gateway" not in registry()
    assert registry().get("gateway") is None


def test_a_chain_imports_what_it_needs(tmp_path: Path) -> None:
    unneeded = (
        "jsonschema",
        "importlib.metadata",
        "importlib.resources",
        "compiler.services.router",
        "pyroute2",
        "rich",
    )
    asked = f"""
import sys
from compiler.build import lowered
lowered(sys.argv[1])
print([name for name in {unneeded} if name in sys.modules])
"""
    command = [sys.executable, "-c", asked, str(examples()["guarded-bridge"])]
    environment = {"BPFCHAIN_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, env=environment, check=True)
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
