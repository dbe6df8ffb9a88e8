"""`bpfchain fdb`: the filtering database of a running bridge, shown and flushed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

if TYPE_CHECKING:
    from .bridge_stations import Station

bpffs_option = click.option(
    "--bpffs", metavar="PATH", type=click.Path(path_type=Path), help="Where bpffs is; /sys/fs/bpf, or $BPFCHAIN_BPFFS."
)
format_option = click.option(
    "--format", "format", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
)
_MAC_FORM = "52:54:00:12:34:56"


@click.group()
def fdb() -> None:
    """Show or flush the stations that a running bridge knows."""


@fdb.command()
@click.argument("chain")
@click.argument("bridge")
@format_option
@bpffs_option
def show(chain: str, bridge: str, format: str, bpffs: Path | None) -> None:
    """Every station that BRIDGE of CHAIN knows, and the port that it is behind."""
    from .bridge_stations import hints, stations

    found = stations(chain, bridge, bpffs=bpffs)
    if format == "json":
        click.echo(json.dumps([to_builtins(station) for station in found], indent=1))
    else:
        click.echo(_text(found), nl=False)
    for loop in hints(chain, bridge, bpffs=bpffs):
        click.echo(f"is there a loop? {loop}", err=True)


@fdb.command()
@click.argument("chain")
@click.argument("bridge")
@click.option("--port", help="Only stations behind this port.")
@click.option("--vlan", type=click.IntRange(1, 4094), help="Only stations in this VLAN.")
@click.option("--mac", metavar="MAC", help=f"Only the station with this address, like {_MAC_FORM}.")
@bpffs_option
def flush(chain: str, bridge: str, port: str | None, vlan: int | None, mac: str | None, bpffs: Path | None) -> None:
    """Forget what BRIDGE of CHAIN has learned; static stations stay."""
    from .bridge_stations import flush as forget

    if mac is not None and not _is_mac(mac):
        raise click.BadParameter(f"`{mac}` is not a MAC address, like {_MAC_FORM}", param_hint="--mac")
    flushed = forget(chain, bridge, port=port, vlan=vlan, mac=mac, bpffs=bpffs)
    click.echo(f"bridge {bridge}: forgot {flushed} station{'' if flushed == 1 else 's'}", err=True)


def _is_mac(text: str) -> bool:
    parts = text.split(":")
    return len(parts) == 6 and all(len(part) == 2 and set(part.lower()) <= set("0123456789abcdef") for part in parts)


def _text(found: tuple[Station, ...]) -> str:
    rows = [("station", "vlan", "port", "heard")]
    for station in found:
        heard = "static" if station.idle_s is None else f"{station.idle_s} s ago"
        rows.append((station.mac, str(station.vlan or "-"), station.port, heard))
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, their cells one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


COMMANDS = (fdb,)
