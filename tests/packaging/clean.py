"""Clean environments: interpreters outside the checkout that see what a distribution declares, and nothing more."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

CHECKOUT = Path(__file__).parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@dataclass(frozen=True, slots=True)
class CleanEnvironment:
    """A virtual environment; `folder` is the working directory of what runs in it, and home to its caches."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "venv" / "bin"

    def install(self, wheel: Path) -> None:
        """Install one wheel, without what it depends on."""
        python = str(self.bin / "python")
        _run([*PIP, "--python", python, "install", "--no-index", "--no-deps", str(wheel)], self.folder)

    def run(self, *command: str | Path, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
        """The outcome of a command of the environment, with a bare set of variables."""
        variables = {"PATH": path, "HOME": str(self.folder)}
        return subprocess.run(
            [self.bin / command[0], *command[1:]],
            cwd=self.folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )


def build_wheel(project: Path, folder: Path) -> Path:
    """The wheel of a project, built with what is installed here."""
    command = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(project)]
    _run([*PIP, *command], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def files_of(page: str) -> dict[str, str]:
    """The files that a page of the documentation has whole, by their names."""
    return dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


def wheel_of(files: Mapping[str, str], folder: Path) -> Path:
    """The wheel of a distribution with these files."""
    project, built = folder / "project", folder / "dist"
    for name, text in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text, encoding="utf-8")
    built.mkdir()
    return build_wheel(project, built)


def clean_environment(folder: Path, *wheels: Path, extras: Iterable[str] = ()) -> CleanEnvironment:
    """An environment with these wheels, and with the dependencies that bpfchain declares."""
    venv.create(folder / "venv", symlinks=True)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    for name in sorted(set(_dependencies("bpfchain", frozenset(extras)))):
        for part in _top_level(name):
            (site / part.name).symlink_to(part)
    environment = CleanEnvironment(folder)
    for wheel in wheels:
        environment.install(wheel)
    return environment


def _dependencies(name: str, extras: frozenset[str]) -> Iterator[str]:
    """Names of the distributions that `name` needs with `extras`, and of those that they need."""
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if not requirement.marker or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement.name
            yield from _dependencies(requirement.name, frozenset(requirement.extras))


def _top_level(name: str) -> set[Path]:
    """What a distribution has put into site-packages: packages, modules and its metadata."""
    distribution = importlib.metadata.distribution(name)
    parts = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    return {Path(str(distribution.locate_file(part))) for part in parts}


def _run(command: list[str], folder: Path) -> None:
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
