"""Table I of the paper: what a chain costs before its first packet, compiled anew, from the cache, and injected."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import yaml

from compiler.build import build
from runtime.info import prog_info
from schemas.manifest import Mode
from tests.rig.lab import Lab

from .contenders import Chain, attach, loaded, make_internal_links


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians in milliseconds; C lines are those of the services' own headers, without comments and blank lines."""

    service: str
    programs: int
    c_lines: int
    instructions: int
    compile_ms: float
    cached_ms: float
    inject_ms: float

    def record(self) -> dict[str, object]:
        return asdict(self)


def costs(chains: Sequence[Chain], rounds: int) -> list[Cost]:
    """One cost for each chain; the whole compiler with its runs of clang in parallel. Medians of as many rounds."""
    return [_cost(chain, rounds) for chain in chains]


def _cost(chain: Chain, rounds: int) -> Cost:
    with tempfile.TemporaryDirectory(prefix="bpfchain-bench-") as folder, Lab("bench") as lab:
        file = Path(folder, "chain.yaml")
        file.write_text(yaml.safe_dump(chain.source(), sort_keys=False))
        build(file)  # what is looked up once for each clang is not counted
        compile_s = [_seconds_to_build(file, Path(folder, f"cold{number}")) for number in range(rounds)]
        cached_s = [_seconds_to_build(file, Path(folder, "cold0")) for _ in range(rounds)]
        compiled = build(file)
        far = lab.namespace("far")
        dut = lab.namespace("dut")
        ports = {name: lab.cable((dut, name), (far, name)).port for name in ("in", "out")}
        make_internal_links(compiled.chain, dut)
        inject_s, instructions = [], 0
        for _ in range(rounds):
            with ExitStack() as stack:
                started = perf_counter()
                programs = stack.enter_context(loaded(compiled.chain, dut)).programs
                for attached in compiled.manifest.attach:
                    program = programs[attached.program]
                    stack.enter_context(attach(program, ports[attached.interface], Mode(chain.mode)))
                inject_s.append(perf_counter() - started)
                instructions = sum(prog_info(program).xlated_size // 8 for program in programs.values())
        services = {each.unit.program.instance.service for each in compiled.programs}
        return Cost(
            service=chain.service,
            programs=len(compiled.programs),
            c_lines=sum(_code_lines(service.header.read_text(encoding="utf-8")) for service in services),
            instructions=instructions,
            compile_ms=round(median(compile_s) * 1000, 1),
            cached_ms=round(median(cached_s) * 1000, 1),
            inject_ms=round(median(inject_s) * 1000, 1),
        )


def _seconds_to_build(file: Path, cache: Path) -> float:
    with cache_in(cache):
        # The version of clang is known before: only objects are compiled.
        started = perf_counter()
        build(file)
        return perf_counter() - started


@contextmanager
def cache_in(folder: Path) -> Iterator[None]:
    """The compiler's cache somewhere else for as long as the block runs."""
    before = os.environ.get("BPFCHAIN_CACHE")
    os.environ["BPFCHAIN_CACHE"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["BPFCHAIN_CACHE"]
        else:
            os.environ["BPFCHAIN_CACHE"] = before


def _code_lines(text: str) -> int:
    lines = (line.strip() for line in text.splitlines())
    return sum(1 for line in lines if line and not line.startswith(("/*", "*", "//")))


def table(found: Sequence[Cost]) -> str:
    """Lines of text."""
    lines = [
        f"{'service':<14} {'programs':>8} {'C lines':>8} {'insns':>6} {'compile ms':>11} {'cached':>7} {'inject':>7}"
    ]
    lines += [
        f"{cost.service:<14} {cost.programs:>8} {cost.c_lines:>8} {cost.instructions:>6} {cost.compile_ms:>11.1f}"
        f" {cost.cached_ms:>7.1f} {cost.inject_ms:>7.1f}"
        for cost in found
    ]
    return "".join(f"{line}\n" for line in lines)
