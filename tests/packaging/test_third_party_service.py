"""The service that CONTRIBUTING.md builds, taken from its text: another distribution, installed beside the wheel."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.packaging.clean import CHECKOUT, CleanEnvironment, clean_environment, files_of, wheel_of
from tests.rig.frames import Wire, collect
from tests.rig.lab import Lab, unique_name

LONGEST = 512
PAGE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = files_of(PAGE)
(CHAIN,) = re.findall(r"^```yaml\n(chain: short-frames\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    """An environment with bpfchain and the distribution of CONTRIBUTING.md."""
    sizegate = wheel_of(FILES, tmp_path_factory.mktemp("sizegate"))
    return clean_environment(tmp_path_factory.mktemp("clean"), wheel, sizegate, extras=["clang"])


def _run(clean: CleanEnvironment, *command: str | Path) -> str:
    ran = clean.run(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _written(clean: CleanEnvironment, name: str, text: str) -> Path:
    file = clean.folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_the_page_has_the_four_files() -> None:
    package = ("sizegate.schema.json", "sizegate.bpf.h", "__init__.py")
    assert list(FILES) == ["pyproject.toml", *(f"bpfchain_sizegate/{name}" for name in package)]


def test_its_chain_is_valid(clean: CleanEnvironment) -> None:
    _run(clean, "bpfchain", "validate", _written(clean, "short-frames.yaml", CHAIN))


def test_its_schema_is_part_of_the_language(clean: CleanEnvironment) -> None:
    assert "Length of the longest frame that passes" in _run(clean, "bpfchain", "schema")


def test_its_own_diagnostic_points_into_the_file(clean: CleanEnvironment) -> None:
    file = _written(clean, "too-strict.yaml", CHAIN.replace("longest: 512", "longest: 20"))
    ran = clean.run("bpfchain", "validate", "--format", "short", file.name)
    assert ran.returncode == 1
    (told,) = ran.stdout.splitlines()
    assert told.startswith("too-strict.yaml:6:35: error[SIZEGATE1]: `longest` is 20, which no Ethernet frame can meet")


def test_a_wrong_type_is_told_in_the_words_of_its_schema(clean: CleanEnvironment) -> None:
    file = _written(clean, "wrong-type.yaml", CHAIN.replace("longest: 512", "longest: much"))
    ran = clean.run("bpfchain", "validate", file)
    assert ran.returncode == 1
    assert "a length in bytes" in ran.stdout


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_it_compiles_with_its_constants_in_the_code(clean: CleanEnvironment, mode: str) -> None:
    """The limit is filled in when the program is loaded, so that of another one is the same."""
    file = _written(clean, f"compiled-{mode}.yaml", CHAIN + f"mode: {mode}\n")
    _run(clean, "bpfchain", "compile", file, "-o", f"compiled-{mode}")
    units = sorted((clean.folder / f"compiled-{mode}" / "src").glob("*.c"))
    assert len(units) == 2
    for unit in units:
        meaning = f"/* longest frame: {LONGEST}, compiled-{mode}.yaml:6 */"
        assert f".longest = loaded(value_gate__longest), {meaning}" in unit.read_text()
    other = _written(clean, f"other-{mode}.yaml", CHAIN.replace("longest: 512", "longest: 300") + f"mode: {mode}\n")
    _run(clean, "bpfchain", "compile", other, "-o", f"other-{mode}")
    objects = [
        {path.name for path in (clean.folder / f"{name}-{mode}" / "objects").glob("*.o")}
        for name in ("compiled", "other")
    ]
    assert objects[0] == objects[1]


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["native", "generic", "tc"])
def test_it_drops_what_is_too_long(clean: CleanEnvironment, mode: str) -> None:
    chain = unique_name("sizegate")
    with Lab("sizegate") as lab:
        machine, left, right = (lab.namespace(label) for label in ("machine", "left", "right"))
        wan = lab.cable((machine, "eth0"), (left, "left0"))
        lan = lab.cable((machine, "eth1"), (right, "right0"))
        text = CHAIN.replace("short-frames", chain) + f"mode: {mode}\n"
        for device in ("eth0", "eth1"):
            text = text.replace(f"device: {device}", f"device: {device}, netns: {machine.name}")
        _run(clean, "bpfchain", "compile", _written(clean, f"{chain}.yaml", text), "-o", chain)
        _run(clean, "bpfchain", "apply", chain)
        try:
            with Wire(wan.station) as outside, Wire(lan.station) as inside:
                header = lan.station.mac_bytes + wan.station.mac_bytes + b"\x88\xb5"
                passes, too_long = header.ljust(LONGEST, b"."), header.ljust(LONGEST + 1, b".")
                outside.send(passes, too_long)
                inside.send(too_long, passes, passes)
                arrived = collect({"outside": outside, "inside": inside}, {"outside": 2, "inside": 1})
            assert arrived == {"outside": [passes, passes], "inside": [passes]}
            assert _dropped(_run(clean, "bpfchain", "status", chain, "--format", "json")) == {
                "outside": {"too-long": 1},
                "inside": {"too-long": 1},
            }
        finally:
            _run(clean, "bpfchain", "detach", chain)


def _dropped(status: str) -> dict[str, dict[str, int]]:
    """Packets dropped, by reason, for each port of the chain's one service."""
    ((service,),) = (chain["services"] for chain in json.loads(status)["chains"])
    return {
        port["name"]: {reason: count["packets"] for reason, count in port["drops"].items()} for port in service["ports"]
    }
