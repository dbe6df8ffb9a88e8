"""The commands that need no privilege: check and compile chain files, print the schema, explain an error's code."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from schemas import SCHEMAS
from schemas.diagnostic import Diagnostic, InvalidChain
from schemas.render import Format, render
from schemas.stopwatch import timings_text

format_option = click.option(
    "--format", "format", type=click.Choice([f.value for f in Format]), default="text", help="How to print findings."
)


@click.command()
@click.argument("chains", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@format_option
def validate(chains: tuple[str, ...], format: str) -> None:
    """Check chain files and print every mistake in them.

    Needs no root and no compiler. `-` is standard input. Exits with 1 where a file has a mistake.
    """
    found: list[Diagnostic] = []
    sources: dict[str, str] = {}
    wrong = 0
    for chain in dict.fromkeys(chains):
        diagnostics = check(chain, sources)
        wrong += bool(diagnostics)
        found += diagnostics
    click.echo(render(found, sources, format, colour=sys.stdout.isatty()), nl=False)
    if found:
        files_wrong = f"{wrong} of {len(set(chains))} files" if len(set(chains)) > 1 else chains[0]
        click.echo(f"{len(found)} {'mistake' if len(found) == 1 else 'mistakes'} in {files_wrong}", err=True)
        sys.exit(1)
    click.echo(f"{', '.join(dict.fromkeys(chains))}: no mistakes", err=True)


def check(file: str, sources: dict[str, str]) -> tuple[Diagnostic, ...]:
    """Every mistake of one chain file; puts its text into `sources`, for rendering."""
    from .resolve import resolve
    from .source import MAX_BYTES, read, readable

    name, raw = ("<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1)) if file == "-" else (file, None)
    try:
        source = read(name, raw)
        sources[name] = source.text
        resolve(source)
    except InvalidChain as error:
        sources.setdefault(name, readable(name, raw))
        return error.diagnostics
    return ()


@click.command()
@click.argument("what", type=click.Choice(["chain", "plan", "status", "manifest"]), default="chain")
def schema(what: str) -> None:
    """Print a JSON Schema: of chain files with every known kind of service (for editors), or of what WHAT prints.

    plan and status are what these commands print with --format json, manifest is what compile writes.
    """
    import json

    from .validate import merged_schema

    if what == "chain":
        click.echo(json.dumps(merged_schema(), indent=2, ensure_ascii=False))
    else:
        click.echo((SCHEMAS / f"{what}.schema.json").read_text(encoding="utf-8"), nl=False)


@click.command()
@click.argument("code")
def explain(code: str) -> None:
    """Explain a diagnostic by its CODE, as in `error[C201]`."""
    entries = explanations()
    wanted = code.strip("[]").upper()
    if wanted not in entries:
        raise click.UsageError(f"no diagnostic has the code {code}; docs/errors.md lists them all")
    click.echo(entries[wanted])


def explanations() -> dict[str, str]:
    """The entries of schemas/errors.md by code."""
    text = (SCHEMAS / "errors.md").read_text(encoding="utf-8")
    sections = text.split("\n### ")[1:]
    return {section.split(":", 1)[0]: _entry(section) for section in sections}


def _entry(section: str) -> str:
    """One section without what follows under the next heading."""
    return section.split("\n## ")[0].strip()


@click.command("compile")
@click.argument("chain", metavar="FILE", type=click.Path())
@click.option("-o", "--output", metavar="DIR", type=click.Path(), help="Where to; default: build/NAME of the file.")
@click.option("--clang", metavar="COMMAND", help="The clang to use; also BPFCHAIN_CLANG. Default: looked for.")
@click.option("-j", "--jobs", metavar="N", type=click.IntRange(1), help="Programs compiled at a time; default: CPUs.")
@click.option("--print", "shown", type=click.Choice(["ir", "c"]), help="Print the IR or the C instead of compiling.")
@click.option("--timings", is_flag=True, help="Tell what each stage took.")
def compile_chain(
    chain: str, output: str | None, clang: str | None, jobs: int | None, shown: str | None, timings: bool
) -> None:
    """Compile a chain file to objects, readable C and a manifest.

    Needs no privilege. The directory is all that `bpfchain apply` needs, on this host or another one.
    """
    from .build import build
    from .progress import CompileProgress

    if shown:
        click.echo(_shown(chain, shown), nl=False)
        return
    directory = Path(output) if output else Path("build") / Path(chain).stem
    with CompileProgress() as progress:
        compiled = build(chain, directory, clang=clang, jobs=jobs, progress=progress)
    if timings:
        click.echo(timings_text(compiled.seconds), err=True)
    fresh = sum(not program.cached for program in compiled.programs)
    programs = "1 program" if len(compiled.programs) == 1 else f"{len(compiled.programs)} programs"
    click.echo(f"{programs}, {fresh} compiled, {len(compiled.programs) - fresh} from the cache", err=True)
    click.echo(directory / "manifest.json")


def _shown(chain: str, what: str) -> str:
    from .build import lowered, version
    from .emit import units
    from .ir_text import text

    ir = lowered(chain)
    return text(ir) if what == "ir" else "\n".join(unit.text for unit in units(ir, version()))


commands: tuple[click.Command, ...] = (validate, compile_chain, schema, explain)
