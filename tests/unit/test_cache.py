"""The cache holds what will be loaded into the kernel: it is private, and one that is not is refused."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from compiler import cache
from schemas.diagnostic import CompileFailed, Diagnostic

STRANGER = 54321
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BPFCHAIN_CACHE", raising=False)
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache._default.cache_clear()
    cache._private.cache_clear()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_cache_is_private_and_is_made_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / ".cache"))
    folder = cache.cache_folder()
    assert folder == tmp_path / "home" / ".cache" / "bpfchain"
    assert mode(folder) == 0o700
    chosen = tmp_path / "chosen"
    chosen.mkdir(mode=0o755)
    chosen.chmod(0o777)
    monkeypatch.setenv("BPFCHAIN_CACHE", str(chosen))
    assert cache.cache_folder() == chosen
    assert mode(chosen) == 0o700


@only_root
def test_a_cache_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    os.chown(chosen, STRANGER, -1)
    monkeypatch.setenv("BPFCHAIN_CACHE", str(chosen))
    with pytest.raises(CompileFailed) as caught:
        cache.cache_folder()
    assert caught.value.diagnostics == (
        Diagnostic(
            "K105",
            f"the cache `{chosen}` is not trusted: it belongs to user {STRANGER}, who is neither root nor the caller",
            help="set BPFCHAIN_CACHE to a folder of your own",
        ),
    )


@only_root
def test_instead_of_somebody_elses_there_is_a_temporary_one_unless_that_is_taken_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    theirs, temporary = tmp_path / "bpfchain", tmp_path / f"bpfchain-{os.getuid()}"
    theirs.mkdir()
    os.chown(theirs, STRANGER, -1)
    assert cache.cache_folder() == temporary
    assert mode(temporary) == 0o700
    os.chown(temporary, STRANGER, -1)
    cache._default.cache_clear()
    cache._private.cache_clear()
    with pytest.raises(CompileFailed) as caught:
        cache.cache_folder()
    assert caught.value.diagnostics[0].code == "K105"
