"""The service with a control plane that docs/control-planes.md builds, taken from its text, installed and run."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.clean import CHECKOUT, CleanEnvironment, clean_environment, files_of, wheel_of
from tests.rig.daemon import own_bpffs
from tests.rig.frames import Wire, collect
from tests.rig.lab import Lab, unique_name
from tests.rig.waiting import PATIENCE_SECONDS, until

PAGE = (CHECKOUT / "docs" / "control-planes.md").read_text(encoding="utf-8")
FILES = files_of(PAGE)
(CHAIN,) = re.findall(r"^```yaml\n(chain: guarded-door\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
BANNED = bytes.fromhex("020000000066")


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """An environment with bpfchain and the distribution of the page."""
    doorman = wheel_of(FILES, tmp_path_factory.mktemp("doorman"))
    return clean_environment(tmp_path_factory.mktemp("clean"), wheel, doorman, extras=["clang"])


def run(clean: CleanEnvironment, *command: str | Path) -> str:
    ran = clean.run("bpfchain", *command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def state(clean: CleanEnvironment, chain: str, root: Path) -> str:
    ((service,),) = (
        found["services"]
        for found in json.loads(run(clean, "status", chain, "--format", "json", "--bpffs", root))["chains"]
    )
    return str(service["control_plane"])


@contextlib.contextmanager
def daemon(clean: CleanEnvironment, chain: str, root: Path) -> Iterator[Path]:
    """The daemon of the environment, once it serves the chain; gives its log."""
    log = clean.folder / "daemon.log"
    with log.open("wb") as opened:
        process = subprocess.Popen(
            [clean.bin / "bpfchain", "daemon", "--bpffs", root],
            cwd=clean.folder,
            env={"HOME": str(clean.folder)},
            stderr=opened,
        )
    try:
        until(lambda: state(clean, chain, root) == "running", log.read_text)
        yield log
    finally:
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


def test_the_page_has_all_files() -> None:
    package = ("doorman.schema.json", "doorman.bpf.h", "__init__.py", "control.py")
    assert list(FILES) == ["pyproject.toml", *(f"bpfchain_doorman/{name}" for name in package)]


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["native", "tc"])
def test_the_doorman_lets_stations_in(clean: CleanEnvironment, mode: str, tmp_path: Path) -> None:
    chain = unique_name("doorman")
    with own_bpffs(tmp_path) as root, Lab("doorman") as lab:
        machine, left, right = (lab.namespace(label) for label in ("machine", "left", "right"))
        wan = lab.cable((machine, "eth0"), (left, "left0"))
        lan = lab.cable((machine, "eth1"), (right, "right0"))
        text = CHAIN.replace("guarded-door", chain) + f"mode: {mode}\n"
        for device in ("eth0", "eth1"):
            text = text.replace(f"device: {device}", f"device: {device}, netns: {machine.name}")
        (clean.folder / f"{chain}.yaml").write_text(text, encoding="utf-8")
        run(clean, "apply", f"{chain}.yaml", "--bpffs", root)
        try:
            assert state(clean, chain, root) == "no daemon"
            with daemon(clean, chain, root) as log, Wire(wan.station) as outside, Wire(lan.station) as inside:
                welcome, banned = (
                    b"\x02" * 6 + mac + b"\x88\xb5" + bytes(range(100)) for mac in (wan.station.mac_bytes, BANNED)
                )
                outside.send(banned, welcome)
                assert collect({"inside": inside}, {"inside": 1}) == {"inside": [welcome]}
                outside.send(*[welcome, banned] * 5)
                assert collect({"inside": inside}, {"inside": 5}) == {"inside": [welcome] * 5}
                counted = json.loads(run(clean, "status", chain, "--format", "json", "--bpffs", root))
            ((service,),) = (found["services"] for found in counted["chains"])
            assert service["counters"]["slow-path stranger sent up"]["packets"] == 7  # the welcome one once
            assert log.read_text().count('event="turned away"') == 6
        finally:
            run(clean, "detach", chain, "--bpffs", root)
