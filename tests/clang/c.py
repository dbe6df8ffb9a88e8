"""C text in, the bytes of a BPF object out, with the clang that this environment has."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

PRELUDE = """
typedef unsigned char u8; typedef unsigned int u32; typedef unsigned long long u64;
#define SEC(name) __attribute__((section(name), used))
#define noinline __attribute__((noinline))
#define __uint(name, value) int (*name)[value]
#define __type(name, value) typeof(value) *name
#define LOADED(name) extern const char name __attribute__((weak, nodebug))
#define loaded(name) ((u64)(&(name)))
#define __array(name, value) typeof(value) *name[]
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const bpf_tail_call)(void *ctx, void *map, u32 index) = (void *)12;
static long (*const bpf_loop)(u32 count, void *callback, void *ctx, u64 flags) = (void *)181;
char _license[] SEC("license") = "GPL";
"""
"""What every unit may use."""

FLAGS = ("-target", "bpfel", "-O2", "-g", "-mcpu=v3", "-fno-asynchronous-unwind-tables")


def clang() -> list[str]:
    """BPFCHAIN_CLANG, or the compiler of the ziglang wheel."""
    chosen = os.environ.get("BPFCHAIN_CLANG")
    if chosen:
        return [chosen]
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise FileNotFoundError("the ziglang wheel is not installed, and BPFCHAIN_CLANG is not set")
    return [str(Path(found.origin).with_name("zig")), "clang"]


@functools.cache
def compile_c(text: str, flags: Sequence[str] = FLAGS) -> bytes:
    """The object of a unit `unit.c` of this text, with `PRELUDE` included before it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "prelude.h").write_text(PRELUDE)
        Path(directory, "unit.c").write_text(text)
        command = [
            *clang(),
            *flags,
            "-fdebug-compilation-dir=.",
            "-include",
            "prelude.h",
            "-c",
            "unit.c",
            "-o",
            "unit.o",
        ]
        run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return Path(directory, "unit.o").read_bytes()


EVERYTHING = """
struct key { u32 a, b; };
struct { __uint(type, 1); __type(key, struct key); __type(value, u64); __uint(max_entries, 100);
         __uint(map_flags, 1); } table SEC(".maps");

int second(struct xdp_md *ctx);
struct { __uint(type, 3); __uint(key_size, 4); __uint(value_size, 4); __uint(max_entries, 8);
         __array(values, int (void *)); } jumps SEC(".maps") = { .values = { [2] = (void *)&second } };

struct inner { __uint(type, 2); __type(key, u32); __type(value, u64); __uint(max_entries, 4); };
struct inner left SEC(".maps"), right SEC(".maps");
struct { __uint(type, 12); __type(key, u32); __uint(max_entries, 4); __array(values, struct inner); }
    nested SEC(".maps") = { .values = { &left, 0, &right } };
struct { __uint(type, 27); __uint(max_entries, 4096); } upcalls SEC(".maps");

LOADED(hz);
LOADED(mac);
static const volatile u32 factor = 5;
u32 start = 7;
static u32 calls;
u64 totals[4];

int far(u32 x);
static noinline int scaled(u32 x) { calls++; return x + factor; }
noinline int near(u32 x) { totals[1]++; return scaled(x) * 3 + far(x); }
noinline int far(u32 x) { return x * 7 + (loaded(mac) >> 24 & 255); }
static noinline int local_in_section(u32 x) SEC("xdp");
static noinline int local_in_section(u32 x) { return x ^ totals[3]; }
static int add(u32 i, void *sum) { *(u32 *)sum += i; return 0; }

SEC("xdp") int first(struct xdp_md *ctx)
{
	struct key key = {1, loaded(hz)};
	u64 *value = bpf_map_lookup_elem(&table, &key);
	u32 sum = 0;

	if (value)
		*value += 1;
	bpf_loop(4, add, &sum, 0);
	return near(start + sum);
}

SEC("xdp") int second(struct xdp_md *ctx) { return 2 + scaled(1) + local_in_section(1); }

SEC("tc") int third(void *ctx)
{
	u32 zero = 0, *inner = bpf_map_lookup_elem(&nested, &zero);

	bpf_tail_call(ctx, &jumps, 2);
	return inner != 0;
}
"""
"""One of each thing that an object can hold."""
