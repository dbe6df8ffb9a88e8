"""The wheel: everything is in it, and it works in a clean environment outside the checkout."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.packaging.clean import CHECKOUT, CleanEnvironment, clean_environment

PACKAGES = ("compiler", "runtime", "schemas")
EXAMPLES = sorted((CHECKOUT / "chains").glob("*.yaml"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    return clean_environment(tmp_path_factory.mktemp("clean"), wheel, extras=["clang"])


def test_holds_all_files_of_the_packages_and_nothing_else(wheel: Path) -> None:
    packaged = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    here = {
        str(path.relative_to(CHECKOUT))
        for package in PACKAGES
        for path in (CHECKOUT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    examples = {f"schemas/examples/{example.name}" for example in EXAMPLES}
    assert packaged == {"bpfchain.py", *here, *examples}


def test_has_every_kind_of_file_that_is_read_at_run_time(wheel: Path) -> None:
    suffixes = {Path(name).suffix for name in zipfile.ZipFile(wheel).namelist()}
    assert {".h", ".j2", ".json", ".md", ".yaml", ".typed"} <= suffixes


def test_carries_both_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    licences = {name.split("/licenses/")[1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "compiler/bpf/LICENSE"}


def test_runs_from_the_environment_and_not_from_the_checkout(clean: CleanEnvironment) -> None:
    ran = clean.run("python", "-c", "import bpfchain, compiler, runtime; print(bpfchain.__file__, compiler.__file__)")
    assert ran.returncode == 0, ran.stderr
    assert all(Path(file).is_relative_to(clean.folder) for file in ran.stdout.split())


@pytest.mark.parametrize("name", [example.stem for example in EXAMPLES])
def test_compiles_the_packaged_examples(clean: CleanEnvironment, name: str) -> None:
    found = clean.run("python", "-c", f"from schemas.chains import examples; print(examples()[{name!r}])")
    example = Path(found.stdout.strip())
    assert example.is_relative_to(clean.folder), found.stderr

    validated = clean.run("bpfchain", "validate", example)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    compiled = clean.run("bpfchain", "compile", example, "-o", f"built/{name}")
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    assert (clean.folder / "built" / name / "manifest.json").is_file()


def test_without_any_clang_it_says_what_to_install(wheel: Path, tmp_path: Path) -> None:
    bare = clean_environment(tmp_path, wheel)
    ran = bare.run("bpfchain", "compile", CHECKOUT / "chains" / "plain-bridge.yaml", "-o", "out", path="/nonexistent")
    assert ran.returncode == 1
    assert "pip install 'bpfchain[clang]'" in ran.stdout + ran.stderr
