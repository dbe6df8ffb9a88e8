"""What a ddos service becomes: constants, maps and generated functions, for each of its ports."""

from __future__ import annotations

import ipaddress
import re
import struct

import pytest

from compiler.bucket import coarse_clock
from compiler.ir import Inlined, InMap, LoadTime, LoweredPort, MapDef
from compiler.lower import lower
from compiler.resolve import resolve
from compiler.services.ddos import SERVICE
from compiler.services.ddos.lowering import INLINED_ADDRESSES
from compiler.services.ddos.near import HASH, neighbourhood, sparse
from compiler.source import read
from compiler.verify import verify
from schemas.diagnostic import Span
from schemas.manifest import Role

HERE = Span("edge.yaml", 1, 1, 1, 2)
CHAIN = """\
chain: edge
mode: {mode}
interfaces: {{wan: {{device: eth0}}, lan: {{device: eth1}}}}
services:
  front-1:
    kind: ddos
    {keys}
links: [[wan, front-1.outside], [front-1.inside, lan]]
"""


def lowered(keys: str, port: str = "outside", mode: str = "native") -> LoweredPort:
    ir = verify(lower(resolve(read("edge.yaml", CHAIN.format(keys=keys, mode=mode)))), "lower")
    return next(program.lowered for program in ir.programs if program.port == port)


def fields(port: LoweredPort) -> dict[str, str]:
    homes = [constant.home for constant in port.constants]
    inlined = {home.field: home.literal for home in homes if isinstance(home, Inlined) and home.field}
    return inlined | {home.field: str(home.value) for home in homes if isinstance(home, LoadTime)}


def maps(port: LoweredPort) -> dict[str, MapDef]:
    return {definition.name: definition for definition in port.maps}


def addresses(count: int) -> str:
    return "[" + ", ".join(f"10.{number // 250}.{number % 250}.1" for number in range(count)) + "]"


EVERYTHING = (
    "block: {sources: [198.51.100.0/24, '2001:db8:bad::/48'], destinations: [192.0.2.7, 'fd00::7'], protocols: [gre], "
    "ports: [tcp/23, udp/1-9], source-ports: [udp/53]}\n    rate: {per-source: 1000, burst: 500}"
)


def test_nothing_is_nothing_but_a_way_out() -> None:
    port = lowered("")
    assert fields(port) == {"out": "1"}
    assert (port.maps, port.functions) == ((), ())


@pytest.mark.parametrize("mode", ["native", "tc"])
def test_what_comes_from_inside_is_not_looked_at(mode: str) -> None:
    port = lowered(EVERYTHING, "inside", mode)
    assert fields(port) == {"out": "0"}
    assert (port.maps, port.functions) == ((), ())


def test_every_field_belongs_to_the_configuration() -> None:
    header = SERVICE.header.read_text(encoding="utf-8")
    struct_text = header[header.index("struct ddos_config {") :]
    known = set(re.findall(r"\(?\*?(\w+)\)?(?:\([^)]*\))?;", struct_text[: struct_text.index("\n};")]))
    for keys in (EVERYTHING, f"block: {{sources: {addresses(INLINED_ADDRESSES + 1)}}}"):
        port = lowered(keys)
        used = {field.split(".")[0] for field in fields(port)}
        used |= {function.field for function in port.functions} | {definition.field for definition in port.maps}
        assert used <= known


def test_every_list_becomes_a_function() -> None:
    port = lowered(EVERYTHING)
    assert [(function.field, function.name) for function in port.functions] == [
        (field, f"front_1__outside__{field}")
        for field in (
            "source4", "source6", "destination4", "destination6", "protocol", "port", "source_port",
        )
    ]  # fmt: skip
    for function in port.functions:
        assert f"static __always_inline __u32 {function.name}(" in function.text
        assert function.span.line == 7


def test_entries_are_constants_and_labels_in_the_order_of_the_counters() -> None:
    port = lowered(EVERYTHING)
    labels = [
        "front-1.block.sources 198.51.100.0/24",
        "front-1.block.sources 2001:db8:bad::/48",
        "front-1.block.destinations 192.0.2.7",
        "front-1.block.destinations fd00::7",
        "front-1.block.protocols gre",
        "front-1.block.ports tcp/23",
        "front-1.block.ports udp/1-9",
        "front-1.block.source-ports udp/53",
    ]
    assert [c.path for c in port.constants if isinstance(c.home, Inlined) and not c.home.field] == labels
    blocked = maps(port)["front_1__blocked"]
    assert (blocked.role, blocked.max_entries, blocked.type) == (Role.COUNTERS, 8, "BPF_MAP_TYPE_PERCPU_ARRAY")
    assert [entry.path for entry in blocked.entries] == labels
    assert [entry.home for entry in blocked.entries] == [
        InMap("front_1__blocked", struct.pack("<I", index), b"") for index in range(8)
    ]
    found = [
        int(n) for function in port.functions for n in re.findall(r"(?:\? |return )(\d+)(?: : 0)?;", function.text)
    ]
    assert sorted(n for n in found if n) == list(range(1, 9)), "each function returns 1 + the index of its counters"


def test_counters_mean_something_else_when_the_list_changes() -> None:
    layouts = {
        maps(lowered(f"block: {{sources: {entries}}}"))["front_1__blocked"].layout
        for entries in ("[10.0.0.1]", "[10.0.0.2]", "[10.0.0.1, 10.0.0.2]", "[10.0.0.2, 10.0.0.1]")
    }
    assert len(layouts) == 4


def test_boundary_between_code_and_trie() -> None:
    code = lowered(f"block: {{sources: {addresses(INLINED_ADDRESSES)}}}")
    trie = lowered(f"block: {{sources: {addresses(INLINED_ADDRESSES + 1)}}}")
    assert [function.field for function in code.functions] == ["source4"]
    assert set(maps(code)) == {"front_1__blocked"}
    assert trie.functions == ()
    assert set(maps(trie)) == {"front_1__sources4", "front_1__near_sources4"}


def test_each_version_and_direction_has_its_own_boundary() -> None:
    long = addresses(INLINED_ADDRESSES + 1)[:-1]
    port = lowered(f"block: {{sources: {long}, 'fd00::1'], destinations: {long}]}}")
    assert [function.field for function in port.functions] == ["source6"]
    tries = {name for name, definition in maps(port).items() if definition.type == "BPF_MAP_TYPE_LPM_TRIE"}
    assert tries == {"front_1__sources4", "front_1__destinations4"}


def test_trie_entries() -> None:
    text = addresses(INLINED_ADDRESSES)[:-1] + ", 198.51.100.0/24]"
    trie = maps(lowered(f"block: {{sources: {text}}}"))["front_1__sources4"]
    assert (trie.role, trie.flags, trie.key_size, trie.value_size) == (Role.CONFIG, 1, 8, 16)
    assert trie.max_entries == 1024, "room for a list of 257 to grow in place"
    last = trie.entries[-1]
    assert last.path == "front-1.block.sources 198.51.100.0/24"
    assert last.home == InMap("front_1__sources4", struct.pack("<I", 24) + bytes([198, 51, 100, 0]), bytes(16))


def test_trie_keys_of_ipv6() -> None:
    text = "[" + ", ".join(f"'2001:db8::{number:x}'" for number in range(INLINED_ADDRESSES + 1)) + "]"
    trie = maps(lowered(f"block: {{destinations: {text}}}"))["front_1__destinations6"]
    assert trie.key_size == 20
    home = trie.entries[1].home
    assert isinstance(home, InMap)
    assert home.key == struct.pack("<I", 128) + ipaddress.IPv6Address("2001:db8::1").packed


def test_a_list_that_changes_in_a_trie_changes_entries_only() -> None:
    def shape(text: str) -> list[tuple[str, str, int]]:
        return [(name, m.layout, m.max_entries) for name, m in maps(lowered(f"block: {{sources: {text}}}")).items()]

    long = addresses(INLINED_ADDRESSES + 1)
    assert shape(long) == shape(long[:-1] + ", 192.0.2.1, 192.0.2.2]")


def test_rate() -> None:
    port = lowered("rate: {per-source: 1000, burst: 500, size: 2048}")
    assert fields(port) == {
        "out": "1",
        "rate.limited": "true",
        "rate.coarse": "true",
        "rate.interval": "16000000",  # 1 ms in sixteenths of a nanosecond
        "rate.tolerance": f"{499 * 16000000}",
        "rate_set_bits": "9",
    }
    buckets = maps(port)
    assert set(buckets) == {"front_1__buckets4", "front_1__buckets6"}
    for definition in buckets.values():
        assert (definition.type, definition.role, definition.max_entries) == ("BPF_MAP_TYPE_ARRAY", Role.STATE, 512)


@pytest.mark.parametrize(("size", "sets"), [(1024, 256), (1025, 512), (65536, 16384), (16777216, 4194304)])
def test_every_source_to_be_remembered_has_room(size: int, sets: int) -> None:
    port = lowered(f"rate: {{per-source: 1000, size: {size}}}")
    assert {definition.max_entries for definition in port.maps} == {sets}
    assert 1 << int(fields(port)["rate_set_bits"]) == sets


def test_buckets_are_not_adopted_by_another_number_of_sets() -> None:
    assert len({lowered(f"rate: {{per-source: 9, size: {size}}}").maps[0].layout for size in (1024, 2048)}) == 2


@pytest.mark.parametrize(
    ("per_source", "burst", "coarse"), [(10000, 2000, True), (10000, 400, True), (10000, 399, False), (1, 1, True)]
)
def test_clock(per_source: int, burst: int, coarse: bool) -> None:
    assert coarse_clock(per_source, burst) is coarse


def test_hooks_share_the_maps() -> None:
    native, tc = lowered(EVERYTHING), lowered(EVERYTHING, mode="tc")
    assert native.maps == tc.maps


@pytest.mark.parametrize("bits", [6, 10, 16])
def test_every_address_of_a_prefix_is_near(bits: int) -> None:
    texts = ["10.0.0.0/8", "198.51.100.0/24", "192.0.2.7", "2001:db8:bad::/48", "2001:db0::/28", "fc00::/7", "fd00::1"]
    for text in texts:
        prefix = ipaddress.ip_network(text)
        near = neighbourhood([prefix], bits)
        assert len(near.words) == 1 << bits - 6
        for address in (prefix[0], prefix[-1], prefix[prefix.num_addresses // 2]):
            head = int(address) >> prefix.max_prefixlen - 32
            slot = (head if prefix.version == 4 else head * HASH & 0xFFFFFFFF) >> 32 - bits
            assert near.words[slot // 64] >> slot % 64 & 1, f"{address} of {prefix}"


def test_few_prefixes_leave_most_slots_empty() -> None:
    assert sparse(neighbourhood([ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/32")], 16))
    assert not sparse(neighbourhood([ipaddress.ip_network("fc00::/7")], 16))


def test_a_list_of_short_prefixes_has_no_table() -> None:
    tree, table = (
        "[0.0.0.0/2, 64.0.0.0/2, 128.0.0.0/3, 160.0.0.0/3, 192.0.0.0/3]",
        "[1.1.1.1, 2.2.2.2, 3.3.3.3, 4.4.4.4]",
    )
    assert "_near[" not in lowered(f"block: {{sources: {tree}}}").functions[0].text
    assert "_near[" in lowered(f"block: {{sources: {table}}}").functions[0].text


def test_generated_c_as_people_read_it() -> None:
    port = lowered("block: {sources: [10.0.0.0/8, 192.0.2.1, 198.51.100.0/24], ports: [udp/1000-2000]}")
    assert [function.text for function in port.functions] == [
        """\
static __always_inline __u32 front_1__outside__source4(__u32 address)
{
	if (address < 0xc0000201U) {
		return address >> 24 == 0x0000000aU ? 1 : 0; /* 10.0.0.0/8, edge.yaml:7 */
	}
	if (address < 0xc6336400U) {
		return address == 0xc0000201U ? 2 : 0; /* 192.0.2.1, edge.yaml:7 */
	}
	return address >> 8 == 0x00c63364U ? 3 : 0; /* 198.51.100.0/24, edge.yaml:7 */
}
""",
        """\
static __always_inline __u32 front_1__outside__port(__u32 protocol, __u32 port)
{
	if (protocol == 17) {
		return port >= 1000 && port <= 2000 ? 4 : 0; /* udp/1000-2000, edge.yaml:7 */
	}
	return 0;
}
""",
    ]
