"""`bpfchain mdb`: the multicast database of a running bridge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from .bridge_commands import bpffs_option, columns, format_option

if TYPE_CHECKING:
    from .bridge_groups import Groups


@click.group()
def mdb() -> None:
    """Show the multicast groups that a running bridge knows."""


@mdb.command()
@click.argument("chain")
@click.argument("bridge")
@format_option
@bpffs_option
def show(chain: str, bridge: str, format: str, bpffs: Path | None) -> None:
    """Every group that somebody behind BRIDGE of CHAIN listens to, with the ports; what is not shown is flooded."""
    from .bridge_groups import groups

    found = groups(chain, bridge, bpffs=bpffs)
    if format == "json":
        click.echo(json.dumps(to_builtins(found), indent=1))
    else:
        click.echo(_text(found), nl=False)


def _text(found: Groups) -> str:
    if not found.snooped:
        return "all multicast is flooded: nobody asks for listeners, or not all have answered yet\n"
    rows = [("group", "vlan", "ports")]
    for group in found.groups:
        rows.append((group.group, _vlan(group.vlan), _ports(group.ports)))
    for snooped in found.snooped:
        elsewhere = "all" if snooped.unregistered is None else _ports(snooped.unregistered)
        rows.append((f"IPv{snooped.ip} routers", _vlan(snooped.vlan), _ports(snooped.routers)))
        rows.append((f"other IPv{snooped.ip}", _vlan(snooped.vlan), elsewhere))
    return columns(rows)


def _vlan(vlan: int | None) -> str:
    return str(vlan or "-")


def _ports(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "-"


COMMANDS = (mdb,)
