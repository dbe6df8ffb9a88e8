"""What a block list costs a packet, by its form and length: ns above a program that does not look.

Run as root: `python -m bench.ddos_lists`. One frame goes through BPF_PROG_TEST_RUN again and again; the program writes
a new source address into it each time, out of 1, 1,024 or 65,536 in random order, so that branches are predicted and
caches filled as they would be by real traffic. Forms: a decision tree alone; `code`, the same behind its table of bits;
`trie`, an LPM trie behind its own. Beyond 1,000 entries clang takes too long for the first two.
"""

from __future__ import annotations

import argparse
import ipaddress
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from compiler.ir import Inlined, InMap, LoweredPort, MapDef
from compiler.model import Port, ServiceInstance
from compiler.services.ddos import SERVICE, lists, lowering
from compiler.services.ddos.model import BlockedPrefix, DdosModel, Rate
from runtime import sys as kernel
from runtime.load import create_maps, load_object
from runtime.object import read_object
from schemas.diagnostic import Span
from schemas.manifest import Hook

ROUNDS = 15
PACKETS = 200_000
SOURCES = 65536
LARGEST_CODE = 1000
HERE = Span("bench.yaml", 1, 1, 1, 2)
INCLUDE = Path(__file__).parent.parent / "compiler"

UNIT = """
#include "xdp.h"
#include "services/ddos/ddos.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 65536);
} sources SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} seeds SEC(".maps");

static const struct ddos_config off = {.out = 1};

static __always_inline __u32 run(struct xdp_md *ctx, const struct ddos_config *cfg)
{
	struct packet pkt;
	__u32 zero = 0, *address, index;
	__u64 *seed = bpf_map_lookup_elem(&seeds, &zero);
	struct iphdr *ip;

	if (!seed || !packet_open(&pkt, ctx))
		return XDP_ABORTED;
	*seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
	index = *seed >> 33 & (COUNT - 1);
	address = bpf_map_lookup_elem(&sources, &index);
	ip = (void *)(pkt.eth + 1);
	if (!address || (void *)(ip + 1) > pkt.end)
		return XDP_ABORTED;
	ip->saddr = *address;
	return ddos_receive(&pkt, cfg) == cfg->out ? XDP_PASS : XDP_DROP;
}

SEC("xdp") int baseline(struct xdp_md *ctx) { return run(ctx, &off); }
"""


def main() -> None:
    """Measures and prints one table for each IP version's worth of questions."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--clang", default="", help="default: the one in the ziglang wheel")
    arguments.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 256, 1000, 5000, 50000])
    options = arguments.parse_args()
    tell("ns a packet; list of N addresses and prefixes; 1, 1k, 64k sources not on it, 1k sources on it")
    tell(f"{'N':>6} {'form':>5} {'1':>7} {'1k':>7} {'64k':>7} {'hits':>7} {'clang, s':>9}")
    for size in options.sizes:
        for form in ("tree", "code", "trie") if size <= LARGEST_CODE else ("trie",):
            cells, seconds = measure(size, form, options.clang)
            tell(f"{size:>6} {form:>5} " + " ".join(f"{cell:7.1f}" for cell in cells) + f" {seconds:9.2f}")
    tell("a rate for each source, which nobody reaches: 1, 1k, 64k sources")
    for name, burst in (("coarse clock", 1_000_000_000), ("fine clock", 100_000)):
        cells = measure_rate(Rate(10_000_000, burst, 131072, HERE), options.clang)
        tell(f"{name:>12} " + " ".join(f"{cell:7.1f}" for cell in cells))


def tell(line: str) -> None:
    """One line of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def measure(size: int, form: str, clang: str) -> tuple[list[float], float]:
    """Cost of one list for each kind of traffic, and the seconds that clang took."""
    generator = random.Random(size)  # noqa: S311  # the same list each time
    prefixes = random_prefixes(size, generator)
    lowering.INLINED_ADDRESSES = 0 if form == "trie" else size
    lists.FILTERED_ENTRIES = 1 if form == "code" else size + 1
    lowered = lower(DdosModel(sources=tuple(BlockedPrefix(prefix, str(prefix), HERE) for prefix in prefixes)))
    clean = list(random_addresses(SOURCES, prefixes, generator))
    listed = [int(generator.choice(prefixes).network_address) for _ in range(SOURCES)]
    costs = [cost(lowered, *traffic, clang) for traffic in ((1, clean), (1024, clean), (65536, clean), (1024, listed))]
    return [nanoseconds for nanoseconds, _ in costs], max(seconds for _, seconds in costs)


def measure_rate(rate: Rate, clang: str) -> list[float]:
    """Cost of a rate that nobody reaches, for 1, 1,024 and 65,536 sources."""
    addresses = list(random_addresses(SOURCES, [], random.Random(1)))  # noqa: S311
    lowered = lower(DdosModel(rate=rate))
    return [cost(lowered, count, addresses, clang)[0] for count in (1, 1024, 65536)]


def lower(model: DdosModel) -> LoweredPort:
    """The program of the port `outside`."""
    ports = Port("guard", "outside", 0, HERE), Port("guard", "inside", 1, HERE)
    return lowering.lower(ServiceInstance("guard", SERVICE, ports, model, HERE), ports[0], Hook.XDP)


def random_prefixes(size: int, generator: random.Random) -> list[ipaddress.IPv4Network]:
    """Two thirds addresses, one third /24, none within another."""
    chosen: dict[int, ipaddress.IPv4Network] = {}
    while len(chosen) < size:
        address, length = generator.getrandbits(32), generator.choice((32, 32, 24))
        chosen.setdefault(address >> 8, ipaddress.IPv4Network((address >> (32 - length) << (32 - length), length)))
    return list(chosen.values())


def random_addresses(size: int, blocked: Sequence[ipaddress.IPv4Network], generator: random.Random) -> Iterator[int]:
    """Addresses that no prefix of the list has."""
    near = {int(prefix.network_address) >> 8 for prefix in blocked}
    while size:
        address = generator.getrandbits(32)
        if address >> 8 not in near:
            size -= 1
            yield address


def build(lowered: LoweredPort, count: int, clang: str) -> bytes:
    """The object with the two programs."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "bench.c", Path(folder) / "bench.o"
        source.write_text("".join(unit(lowered, count)))
        flags = ["-target", "bpfel", "-O2", "-g", "-mcpu=v3", "-fno-asynchronous-unwind-tables", f"-I{INCLUDE / 'bpf'}"]
        command = [*compiler(clang), *flags, f"-I{INCLUDE}", "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)  # noqa: S603  # our own command
        return target.read_bytes()


def compiler(clang: str) -> list[str]:
    """The command that runs clang."""
    if clang:
        return [clang]
    import ziglang

    return [str(Path(ziglang.__file__).parent / "zig"), "clang"]


def unit(lowered: LoweredPort, count: int) -> Iterator[str]:
    """C as `emit` would write it, around an entry that changes the source."""
    yield f"#define COUNT {count}U\n" + UNIT
    for definition in lowered.maps:
        yield map_definition(definition)
    for function in lowered.functions:
        yield function.text
    fields = [(c.home.field, c.home.literal) for c in lowered.constants if isinstance(c.home, Inlined) and c.home.field]
    fields += [(definition.field, f"&{definition.name}") for definition in lowered.maps]
    fields += [(function.field, function.name) for function in lowered.functions]
    yield "static const struct ddos_config on = {" + ", ".join(f".{name} = {text}" for name, text in fields) + "};\n"
    yield 'SEC("xdp") int measured(struct xdp_md *ctx) { return run(ctx, &on); }\n'
    yield 'char _license[] SEC("license") = "Dual BSD/GPL";\n'


def map_definition(definition: MapDef) -> str:
    """A map as clang's BTF records it."""
    return (
        f"struct {{ __uint(type, {definition.type}); __type(key, {definition.key_type}); "
        f"__type(value, {definition.value_type}); __uint(max_entries, {definition.max_entries}); "
        f'__uint(map_flags, {definition.flags}); }} {definition.name} SEC(".maps");\n'
    )


def cost(lowered: LoweredPort, count: int, addresses: Sequence[int], clang: str) -> tuple[float, float]:
    """Nanoseconds a packet of `measured` above `baseline`, the least of rounds that alternate; the seconds of clang."""
    started = time.perf_counter()
    spec = read_object(build(lowered, count, clang))
    compiled = time.perf_counter() - started
    with ExitStack() as stack:
        maps = {name: stack.enter_context(fd) for name, fd in create_maps(spec).items()}
        for index, address in enumerate(addresses):
            kernel.map_update_elem(maps["sources"], index.to_bytes(4, "little"), address.to_bytes(4, "big"))
        for definition in lowered.maps:
            for entry in definition.entries:
                if isinstance(entry.home, InMap) and entry.home.value:
                    kernel.map_update_elem(maps[definition.name], entry.home.key, entry.home.value)
        programs = stack.enter_context(load_object(spec, maps=maps)).programs
        rounds = [(run(programs["baseline"]), run(programs["measured"])) for _ in range(ROUNDS)]
    return min(measured for _, measured in rounds) - min(baseline for baseline, _ in rounds), compiled


def run(program: kernel.Fd) -> float:
    """Nanoseconds of CPU time a packet; the kernel's own figure is rounded to whole ones."""
    frame = bytes.fromhex("ffffffffffff02000000000108004500002e00000000401100000a000001c0a80001") + bytes(26)
    started = time.thread_time()
    kernel.prog_test_run(program, frame, repeat=PACKETS)
    return (time.thread_time() - started) / PACKETS * 1e9


if __name__ == "__main__":
    main()
