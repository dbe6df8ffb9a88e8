"""The commands that need no privilege: check chain files, print the language's schema, explain an error's code."""

from __future__ import annotations

import sys
from importlib.resources import files

import click

from schemas.diagnostic import Diagnostic, InvalidChain
from schemas.render import Format, render

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
def schema() -> None:
    """Print the JSON Schema of chain files with every known kind of service, for editors."""
    import json

    from .validate import merged_schema

    click.echo(json.dumps(merged_schema(), indent=2, ensure_ascii=False))


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
    text = (files("schemas") / "errors.md").read_text(encoding="utf-8")
    sections = text.split("\n### ")[1:]
    return {section.split(":", 1)[0]: _entry(section) for section in sections}


def _entry(section: str) -> str:
    """One section without what follows under the next heading."""
    return section.split("\n## ")[0].strip()


commands: tuple[click.Command, ...] = (validate, schema, explain)
