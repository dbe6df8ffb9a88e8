"""The example chains that come along: in a checkout the folder `chains/`, in the wheel `schemas/examples/`."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def examples() -> dict[str, Path]:
    """Every example by its name, as in `guarded-bridge`."""
    installed = _HERE / "examples"
    folder = installed if installed.is_dir() else _HERE.parent / "chains"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
