"""The commands that run chains, from plan to detach. What goes wrong is a `ChainError`, for `main` to print."""

from __future__ import annotations

import contextlib
import importlib
import json
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from msgspec import Struct

from schemas.stopwatch import Stopwatch, Timings, process_age, timings_text
from schemas.terminal import ProgressLine

from . import services

if TYPE_CHECKING:
    from schemas.compiled import CompiledChain
    from schemas.diagnostic import Diagnostic

    from .apply import Applied
    from .plan import Plan

DIFFERENCES = 3
"""Exit code of `plan` when there is something to do."""


class Built(Protocol):
    """A compiled chain, and what each stage of compiling it took."""

    @property
    def chain(self) -> CompiledChain: ...

    @property
    def seconds(self) -> Timings: ...


class Compiler(Struct, frozen=True):
    """What the command line brings along where there is a compiler: the runtime itself knows none."""

    compile_file: Callable[[Path], Built]
    """Compiles a chain file, and tells a terminal how far it is."""
    check: Callable[[], object]
    """Raises `ChainError` where there is no clang."""


ROLLED_BACK = 4
"""Exit code of `try` when it went back."""

_Command = Callable[..., None]

_bpffs_option = click.option(
    "--bpffs", metavar="PATH", type=click.Path(path_type=Path), help="Where bpffs is; /sys/fs/bpf, or $BPFCHAIN_BPFFS."
)
_format_option = click.option(
    "--format", "format", type=click.Choice(["text", "json"]), default="text", help="How to print the result."
)
_accept_option = click.option(
    "--accept-state-loss", is_flag=True, help="Go ahead where something that was learned is lost."
)
_replace_option = click.option(
    "--replace",
    metavar="DEV=ID",
    multiple=True,
    callback=lambda _context, _option, given: tuple(map(_replace, given)),
    help="Take over device DEV from the foreign program with this ID; may be given several times.",
)
_chain_argument = click.argument("chain", metavar="DIRECTORY|FILE", type=click.Path(path_type=Path))


@click.command()
@_chain_argument
@_format_option
@_bpffs_option
def plan(chain: Path, format: str, bpffs: Path | None) -> None:
    """Show what `apply` would change, and why; change nothing.

    Of the DIRECTORY that `bpfchain compile` wrote, or of a chain FILE, compiled on the way.
    Exits with 0 where there is nothing to do, with 3 where there is.
    """
    from .apply import plan as make_plan
    from .plan_text import plan_data, plan_text

    found = make_plan(_compiled(chain), bpffs=bpffs)
    _print(plan_data(found)) if format == "json" else click.echo(plan_text(found), nl=False)
    sys.exit(DIFFERENCES if found else 0)


@click.command()
@_chain_argument
@_replace_option
@_accept_option
@click.option("--timings", is_flag=True, help="Tell what each stage took.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing where all goes well.")
@_bpffs_option
def apply(
    chain: Path,
    replace: tuple[tuple[str, int], ...],
    accept_state_loss: bool,
    timings: bool,
    quiet: bool,
    bpffs: Path | None,
) -> None:
    """Run the compiled chain in DIRECTORY, or a chain FILE, in place of what runs under its name.

    All or nothing: what goes wrong before all of it runs is taken back, and what ran before runs on.
    """
    from .apply import apply as carry_out
    from .lock import WAITS_FOR_LOCK

    built = _built(chain)
    with ProgressLine() as line:
        applied = carry_out(
            built.chain,
            bpffs=bpffs,
            replace=replace,
            accept_state_loss=accept_state_loss,
            on_step=lambda step: line.show(step.title),
            on_wait=lambda: line.show(WAITS_FOR_LOCK),
        )
    if timings:
        click.echo(timings_text(built.seconds + applied.timings), err=True)
        if applied.plan:
            click.echo(_live_text(applied), err=True)
    if not quiet:
        if applied.plan:
            click.echo(str(applied.plan))
        click.echo(str(applied))
    _show(applied.warnings)
    _warn_of_losses(applied.plan)


def _live_text(applied: Applied) -> str:
    """When packets met the change: after the start of this process, and by the clock of the kernel's traces."""
    after = process_age() - (time.monotonic() - applied.live_at)
    return f"live after {after * 1000:.0f} ms, at {applied.live_at:.6f} s of CLOCK_MONOTONIC"


def _warn_of_losses(plan: Plan) -> None:
    """Where devices were taken anew: those that will lose frames without a trace, as they are set up."""
    from .plan import Kind

    if not any(change.kind is Kind.ATTACH for change in plan.changes):
        return
    from .doctor import silent_losses

    _show(silent_losses(plan.manifest))


def _show(warnings: tuple[Diagnostic, ...]) -> None:
    if warnings:
        from schemas.render import render

        click.echo(render(warnings, {}, colour=sys.stderr.isatty()), nl=False, err=True)


@click.command("try")
@_chain_argument
@click.option(
    "--timeout",
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 86400),
    help="Go back after this time.",
)
@click.option("--require", metavar="CMD", help="Keep it if this shell command succeeds in time, otherwise go back.")
@_replace_option
@_accept_option
@_bpffs_option
def try_chain(
    chain: Path,
    timeout: float,
    require: str | None,
    replace: tuple[tuple[str, int], ...],
    accept_state_loss: bool,
    bpffs: Path | None,
) -> None:
    """Apply the compiled chain in DIRECTORY, or a chain FILE, and go back unless that is confirmed in time.

    By `bpfchain confirm` from anywhere, by Enter on this terminal, or by CMD. What goes back is a process of its own,
    which the end of this one or of the terminal does not touch. Exits with 4 where it went back.
    """
    from .apply import plan as make_plan
    from .attend import Attendant
    from .guard import End, Order
    from .guard_process import set_guard
    from .lock import WAITS_FOR_LOCK
    from .trying import cannot_be_undone

    def tell(text: str) -> None:
        click.echo(text, err=True)

    def on_wait() -> None:
        if sys.stderr.isatty():
            tell(WAITS_FOR_LOCK)

    compiled = _compiled(chain)
    name = compiled.manifest.chain
    wanted = make_plan(compiled, bpffs=bpffs)
    if wanted:
        click.echo(str(wanted.granting(replace)))
        for line in cannot_be_undone(wanted, replace):
            tell(f"going back does not undo everything: {line}")
    order = Order(compiled, timedelta(seconds=timeout), require, bpffs, replace, accept_state_loss)
    guard = set_guard(order)
    outcome = Attendant(guard, name, bpffs, tell, sys.stdin.isatty() and not require, on_wait).attend()
    match outcome.end:
        case End.TAKEN_BACK:
            tell(f"chain {name}: rolled back: {outcome.why}")
            sys.exit(ROLLED_BACK)
        case End.NOT_BEGUN:
            tell(f"chain {name}: nothing was changed: {outcome.why}")
            sys.exit(1)
        case End.KEPT:
            tell(f"chain {name}: confirmed")
            _warn_of_losses(wanted)


@click.command()
@click.argument("chain", required=False)
@_bpffs_option
def confirm(chain: str | None, bpffs: Path | None) -> None:
    """Keep what is being tried: of CHAIN, or of the only chain that is."""
    from .trying import confirm as keep

    with _waiting() as on_wait:
        decided = keep(chain, bpffs=bpffs, on_wait=on_wait)
    _show(decided.warnings)
    click.echo(f"chain {decided.chain}: confirmed", err=True)


@click.command()
@click.argument("chain", required=False)
@_bpffs_option
def abort(chain: str | None, bpffs: Path | None) -> None:
    """Go back from what is being tried: of CHAIN, or of the only chain that is."""
    from .trying import abort as take_back

    with _waiting() as on_wait:
        decided = take_back(chain, bpffs=bpffs, on_wait=on_wait)
    click.echo(f"chain {decided.chain}: rolled back", err=True)


@click.command()
@click.argument("chain", required=False)
@_format_option
@_bpffs_option
def status(chain: str | None, format: str, bpffs: Path | None) -> None:
    """Show what runs, with its counters: one CHAIN, or all."""
    from .status import status as read_status
    from .status import status_data

    found = read_status(bpffs=bpffs) if chain is None else (read_status(chain, bpffs=bpffs),)
    if format == "json":
        _print({"format": 1, "chains": [status_data(each) for each in found]})
    elif found:
        click.echo("\n".join(str(each) for each in found), nl=False)
    else:
        click.echo("no chain runs here", err=True)


@click.command()
@click.option("--unit", is_flag=True, help="Print a systemd unit for it instead of running it.")
@_bpffs_option
def daemon(unit: bool, bpffs: Path | None) -> None:
    """Run the control planes of all chains that run here, until it is stopped.

    Packets are forwarded with it or without; what needs a control plane (`status` shows it) waits for it.
    """
    if unit:
        from .systemd import unit as systemd_unit

        click.echo(systemd_unit(), nl=False)
        return
    import gc

    from .bpffs import bpffs_root
    from .daemon import serve

    gc.enable()
    serve(bpffs_root(bpffs))


@click.command()
@_chain_argument
@_format_option
def cost(chain: Path, format: str) -> None:
    """Show what a chain costs before it runs: instructions, stack, maps, tail calls, and the kernel's limits.

    Of the DIRECTORY that `bpfchain compile` wrote, or of a chain FILE, compiled on the way. With the privilege to load
    programs they are loaded, attached to nothing, and dropped; without, it says what is left out.
    """
    from .cost import cost as cost_of
    from .cost import cost_data

    found = cost_of(_compiled(chain))
    _print(cost_data(found)) if format == "json" else click.echo(str(found), nl=False)


@click.command()
@click.argument("chain")
@_bpffs_option
def detach(chain: str, bpffs: Path | None) -> None:
    """Stop CHAIN and leave nothing of it behind."""
    from .apply import detach as take_down

    with _waiting() as on_wait:
        warnings = take_down(chain, bpffs=bpffs, on_wait=on_wait)
    _show(warnings)
    click.echo(f"chain {chain}: detached", err=True)


@contextlib.contextmanager
def _waiting() -> Iterator[Callable[[], None]]:
    """What says on a terminal that somebody else is waited for."""
    from .lock import WAITS_FOR_LOCK

    with ProgressLine() as line:
        yield lambda: line.show(WAITS_FOR_LOCK)


def _replace(given: str) -> tuple[str, int]:
    device, equals, prog_id = given.rpartition("=")
    if not device or not equals or not prog_id.isdecimal():
        raise click.BadParameter(f"`{given}` is not a device and a program's id, like eth0=17")
    return device, int(prog_id)


@click.command()
@click.argument("chain", metavar="[DIRECTORY|FILE]", required=False, type=click.Path(path_type=Path))
@_format_option
@_bpffs_option
def doctor(chain: Path | None, format: str, bpffs: Path | None) -> None:
    """Look for what would keep chains, or one chain, from working here, and print what mends each finding.

    Privileges, kernel features, bpffs and clang; of a compiled chain in DIRECTORY, or a chain FILE, its devices too.
    Exits with 1 where something will not work, with 0 where there are only warnings.
    """
    from schemas.diagnostic import Severity
    from schemas.render import render

    from .doctor import examine

    compiler = _compiler()
    manifest = _compiled(chain).manifest if chain else None
    found = examine(manifest, bpffs=bpffs, compiler=compiler.check if compiler else None)
    click.echo(render(found, {}, format, colour=format == "text" and sys.stdout.isatty()), nl=False)
    errors = sum(finding.severity is Severity.ERROR for finding in found)
    click.echo(f"{_number(errors, 'error')}, {_number(len(found) - errors, 'warning')}", err=True)
    sys.exit(1 if errors else 0)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


class _Read(Struct, frozen=True):
    """A chain that was compiled before."""

    chain: CompiledChain
    seconds: Timings


def _built(chain: Path) -> Built:
    """A compiled chain from its directory, or from a chain file where the command line brought a compiler along."""
    from schemas.compiled import load

    if chain.suffix not in (".yaml", ".yml"):
        watch = Stopwatch()
        watch.enter("read")
        return _Read(load(chain), watch.stop())
    compiler = _compiler()
    if compiler is None:
        raise click.UsageError(
            f"{chain} is a chain file and there is no compiler here: give the directory of a compiled one"
        )
    return compiler.compile_file(chain)


def _compiled(chain: Path) -> CompiledChain:
    return _built(chain).chain


def _compiler() -> Compiler | None:
    found: Compiler | None = click.get_current_context().obj
    return found


def _print(data: dict[str, Any]) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _service_commands() -> Iterator[click.Command]:
    """What services bring along: `COMMANDS` of each runtime/services/KIND_commands.py."""
    for module in pkgutil.iter_modules(services.__path__):
        if module.name.endswith("_commands"):
            yield from importlib.import_module(f"{services.__name__}.{module.name}").COMMANDS


commands: tuple[click.Command, ...] = (
    plan,
    cost,
    apply,
    try_chain,
    confirm,
    abort,
    status,
    detach,
    daemon,
    doctor,
    *_service_commands(),
)
