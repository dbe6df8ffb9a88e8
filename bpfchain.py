"""bpfchain: compile a YAML chain of network services to eBPF programs made for exactly that chain, and run them.

    import bpfchain

    compiled = bpfchain.compile("chains/guarded-bridge.yaml", "build/guarded-bridge")
    print(bpfchain.plan(compiled))
    bpfchain.apply(compiled)
    print(bpfchain.status("guarded-bridge"))
    bpfchain.detach("guarded-bridge")

Everything that goes wrong is a `ChainError` with diagnostics; `bpfchain.render` turns them into text.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, overload

from schemas.diagnostic import (
    ChainError,
    CompileFailed,
    Diagnostic,
    InvalidChain,
    LoadFailed,
    NotSupported,
    Severity,
    Span,
    VerifierRejected,
)

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path

    import click

    from compiler.ahead import Ahead
    from compiler.build import Compiled
    from runtime.apply import Applied
    from runtime.attempt import Attempt
    from runtime.cli import Built, Compiler
    from runtime.cost import Cost
    from runtime.plan import Plan
    from runtime.status import ChainStatus
    from schemas.compiled import CompiledChain

__all__ = [
    "ChainError",
    "CompileFailed",
    "Diagnostic",
    "InvalidChain",
    "LoadFailed",
    "NotSupported",
    "Severity",
    "Span",
    "VerifierRejected",
    "abort",
    "apply",
    "compile",
    "confirm",
    "cost",
    "detach",
    "doctor",
    "load",
    "plan",
    "render",
    "status",
    "try_",
    "validate",
]

BUG = 70
"""Exit code for a defect of bpfchain (EX_SOFTWARE)."""
_RUNNING = ("apply", "cost", "doctor", "plan", "try")
"""Commands that compile a chain file to go on with it."""


def validate(file: str | os.PathLike[str]) -> tuple[Diagnostic, ...]:
    """Every mistake of a chain file; none for a valid one. A file that cannot be read has one, too (C100)."""
    from compiler.cli import check

    return check(os.fspath(file), {})


def compile(  # noqa: A001 - the name of the command
    file: str | os.PathLike[str], directory: str | os.PathLike[str] | None = None, *, clang: str | None = None
) -> Compiled:
    """Compile a chain file; with `directory`, write `manifest.json`, `objects/` and the generated C in `src/` there.

    `clang` names one to use. Raises InvalidChain with every mistake of the file, CompileFailed where there is no clang
    that will do, or where it refuses a service's C.
    """
    from compiler.build import build

    return build(file, directory, clang=clang)


def load(directory: str | os.PathLike[str]) -> CompiledChain:
    """A compiled chain from the directory that `compile` wrote.

    Raises LoadFailed (M101 to M109) for what is not whole, or could have been written by others.
    """
    from schemas.compiled import load as load_compiled

    return load_compiled(directory)


def plan(chain: Compiled | CompiledChain) -> Plan:
    """What `apply` would do on this host; changes nothing. It is true where there is something to do.

    `str()` of it is for people. Raises LoadFailed, NotSupported.
    """
    from runtime.apply import plan as make_plan

    return make_plan(_compiled(chain))


def cost(chain: Compiled | CompiledChain) -> Cost:
    """What a chain costs here, before it runs; `str()` of it is for people. Programs are loaded where that is allowed.

    Raises LoadFailed, VerifierRejected where the kernel refuses them.
    """
    from runtime.cost import cost as cost_of

    return cost_of(_compiled(chain))


def apply(
    chain: Compiled | CompiledChain, *, replace: Collection[tuple[str, int]] = (), accept_state_loss: bool = False
) -> Applied:
    """Run a compiled chain on this host, in place of what runs under its name; all or nothing.

    `replace` names foreign programs, as (device, program id), that may be taken off the chain's hooks. What would lose
    something that was learned is refused unless `accept_state_loss`.
    Raises ChainError: LoadFailed, VerifierRejected, NotSupported; then what ran before runs on.
    """
    from runtime.apply import apply as carry_out

    return carry_out(_compiled(chain), replace=replace, accept_state_loss=accept_state_loss)


def try_(
    chain: Compiled | CompiledChain,
    timeout: timedelta | float = 60.0,
    *,
    require: str | None = None,
    replace: Collection[tuple[str, int]] = (),
    accept_state_loss: bool = False,
) -> Attempt:
    """Run a compiled chain for now: what ran before comes back after `timeout` (seconds), unless it is confirmed.

        with bpfchain.try_(compiled, timeout=30) as attempt:
            look_whether_all_is_well()
            attempt.confirm()

    Leaving the block without that goes back, at once. A process of its own guards the try: it goes back as well when
    this one dies. Instead of a block, `require` can be a shell command that decides, and `attempt.wait()` is how.
    The rest is as for `apply`; programs that are replaced come back to their hooks with what ran before.
    Raises ChainError as `apply` does; where nothing would change, there is nothing to confirm.
    """
    from datetime import timedelta

    from runtime.attempt import attempt
    from runtime.guard import Order

    limit = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
    return attempt(Order(_compiled(chain), limit, require, replace=tuple(replace), accept_state_loss=accept_state_loss))


def confirm(chain: str | None = None) -> tuple[Diagnostic, ...]:
    """Keep what is being tried under a chain's name, or the only thing that is.

    Returns warnings of what could not be tidied up (A114). Raises LoadFailed: A109 and A141 where nothing is tried, or
    more than one thing and none is named; A142 where it does not run on all hooks.
    """
    from runtime.trying import confirm as keep

    return keep(chain).warnings


def abort(chain: str | None = None) -> None:
    """Go back from what is being tried under a chain's name, or from the only thing that is.

    Raises LoadFailed: A109 and A141 as `confirm` does, A143 where what ran before is not there any more.
    """
    from runtime.trying import abort as go_back

    go_back(chain)


@overload
def status(chain: str) -> ChainStatus: ...
@overload
def status(chain: None = None) -> tuple[ChainStatus, ...]: ...
def status(chain: str | None = None) -> ChainStatus | tuple[ChainStatus, ...]:
    """What runs under a chain's name, or all that runs here, with counters, as the kernel has it.

    `str()` of one is for people. Raises LoadFailed (A109) where no chain of this name runs.
    """
    from runtime.status import status as read_status

    return read_status(chain)


def detach(chain: str) -> tuple[Diagnostic, ...]:
    """Stop a chain and remove everything of it: programs, maps, pins, links, veths.

    Returns warnings of what could not be tidied up. Raises LoadFailed (A109) where it does not run.
    """
    from runtime.apply import detach as remove

    return remove(chain)


def doctor(chain: Compiled | CompiledChain | None = None) -> tuple[Diagnostic, ...]:
    """What would keep a chain, or any chain, from working on this host; `help` of each is what mends it.

    Errors and warnings, told apart by `severity`; nothing where all is well.
    """
    from importlib.util import find_spec

    from runtime.doctor import examine

    check = _check_compiler if find_spec("compiler") else None
    return examine(_compiled(chain).manifest if chain else None, compiler=check)


def render(error: ChainError, sources: Mapping[str, str] | None = None, *, format: str = "text") -> str:
    """The diagnostics of an error as text; `format` is text, short, json or github. `sources`: texts by file.

    Without `sources`, the files are read. Raises ValueError for another format.
    """
    from schemas.render import render as render_diagnostics

    return render_diagnostics(error.diagnostics, sources or _sources(error), format)


def main() -> None:
    """The command line: exits with 0, 1 (input or system), 2 (usage), 3 (differences pending), 4 (taken back) or 70."""
    with _no_garbage_collection(), _compiling_ahead() as ahead:
        compilers = _compiler_commands()
        try:
            _commands(compilers).main(prog_name="bpfchain", obj=_compiler(ahead) if compilers else None)
        except ChainError as error:
            _explain(error)
            sys.exit(1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception:
            import traceback

            traceback.print_exc()
            sys.stderr.write("bpfchain: this is a defect of bpfchain; please report it with the text above\n")
            sys.exit(BUG)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """For a command, which is short: what it makes lasts as long as it does. The daemon switches it on again.

    Python looks for garbage at its end, too, in all that was imported: 50 ms, unless that is frozen.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()


def _commands(compilers: tuple[click.Command, ...]) -> click.Group:
    """Every command that can be had here: a host that only runs chains may lack the compiler."""
    import click

    from runtime.cli import commands as runtime_commands

    group = click.Group("bpfchain", help="Chains of network services, compiled to eBPF from YAML.")
    group.params.append(click.Option(["--version"], is_flag=True, expose_value=False, callback=_version, is_eager=True))
    for command in (*compilers, *runtime_commands):
        group.add_command(command)
    return group


def _compiler_commands() -> tuple[click.Command, ...]:
    try:
        from compiler.cli import commands
    except ModuleNotFoundError as missing:
        if missing.name not in ("compiler", "compiler.cli"):
            raise
        return ()
    return commands


def _compiling_ahead() -> AbstractContextManager[Ahead | None]:
    """Here the halves of a command part: one compiles, one gets ready to load. They meet in `_compile_to_run`."""
    file = _chain_file(sys.argv[1:])
    if file is None:
        return nullcontext()
    try:
        from compiler.ahead import compiling_ahead
    except ModuleNotFoundError as missing:
        if missing.name not in ("compiler", "compiler.ahead"):
            raise
        return nullcontext()
    return compiling_ahead(file)


def _chain_file(words: list[str]) -> Path | None:
    """The chain file that a command line seems to run; what it really says is found out once that can be imported."""
    from pathlib import Path

    if words[:1] and words[0] in _RUNNING:
        return next((Path(word) for word in words[1:] if word.endswith((".yaml", ".yml"))), None)
    return None


def _compiler(ahead: Ahead | None) -> Compiler:
    from runtime.cli import Compiler

    return Compiler(partial(_compile_to_run, ahead), _check_compiler)


def _compile_to_run(ahead: Ahead | None, file: Path) -> Built:
    """A compiled chain for a command that goes on with it, which is ready to do so by then."""
    from runtime.swap import get_ready

    get_ready()
    if ahead and (compiled := ahead.compiled(file)):
        return compiled
    from compiler.build import build
    from compiler.progress import CompileProgress

    with CompileProgress() as progress:
        return build(file, progress=progress)


def _check_compiler() -> None:
    from compiler.clang import find_clang

    find_clang()


def _version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"bpfchain {version('bpfchain')}")  # noqa: T201
        context.exit()


def _explain(error: ChainError) -> None:
    from schemas.render import render as render_diagnostics

    text = render_diagnostics(error.diagnostics, _sources(error), "text", colour=sys.stderr.isatty())
    sys.stderr.write(text)


def _sources(error: ChainError) -> dict[str, str]:
    """The texts that an error points into, where they can be read."""
    texts = {}
    for file in {diagnostic.span.file for diagnostic in error.diagnostics if diagnostic.span}:
        if os.path.isfile(file):
            with open(file, encoding="utf-8", errors="replace") as text:
                texts[file] = text.read()
    return texts


def _compiled(chain: Compiled | CompiledChain) -> CompiledChain:
    from schemas.compiled import CompiledChain

    return chain if isinstance(chain, CompiledChain) else chain.chain


if __name__ == "__main__":
    main()
