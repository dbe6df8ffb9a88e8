"""What a chain costs, as far as that needs no kernel: the longest way, limits, the text."""

from __future__ import annotations

from msgspec.structs import replace

from runtime.cost import Cost, Headroom, Loaded, MapCost, ProgramCost, cost_data, headroom, longest_path
from schemas.manifest import EdgeRecord, Manifest
from tests.unit.manifests import sample

OUTSIDE = ProgramCost("guard__outside__xdp", "guard", "outside", "xdp", 462, Loaded(22546, 24, 2572))
UPLINK = ProgramCost("br0__uplink__xdp", "br0", "uplink", "xdp", 682, Loaded(7071, 96, 3014))
MAPS = (
    MapCost("br0__fdb", "BPF_MAP_TYPE_ARRAY", 1024, 65536, 65792),
    MapCost("chain_xdp", "BPF_MAP_TYPE_PROG_ARRAY", 2, 8, 328),
)
COST = Cost("edge", (OUTSIDE, UPLINK), MAPS, ("guard__outside__xdp", "br0__uplink__xdp"), "")
UNLOADED = Cost(
    "edge",
    tuple(replace(program, loaded=None) for program in COST.programs),
    tuple(replace(each, memory=None) for each in MAPS),
    COST.path,
    "loading programs needs the privilege CAP_BPF",
)


def linked(*edges: tuple[str, str, str]) -> Manifest:
    """The sample with other links: service, port, program."""
    records = tuple(EdgeRecord(service, port, f"program {target}", "") for service, port, target in edges)
    return replace(sample(), edges=records)


def test_the_longest_path_follows_links_from_interfaces() -> None:
    assert longest_path(sample()) == ("guard__outside__xdp", "guard__inside__xdp")
    three = linked(("br0", "up", "guard__inside__xdp"), ("guard", "outside", "br0__lan__xdp"))
    assert longest_path(three) == ("br0__lan__xdp", "guard__inside__xdp", "br0__lan__xdp", *longest_path(three)[3:])


def test_a_packet_does_not_leave_by_the_port_that_it_came_from() -> None:
    assert len(longest_path(linked(("guard", "outside", "guard__outside__xdp")))) == 2
    assert len(longest_path(linked(("br0", "lan", "br0__lan__xdp")))) == 1


def test_a_way_in_circles_ends_where_the_kernel_ends_it() -> None:
    circle = linked(("guard", "inside", "guard__inside__xdp"), ("guard", "outside", "guard__outside__xdp"))
    assert len(longest_path(circle)) == 34


def test_a_chain_of_nothing_has_no_path() -> None:
    assert longest_path(replace(sample(), attach=(), internal_links=())) == ()


def test_headroom_is_that_of_the_program_that_has_least() -> None:
    assert headroom(COST) == (
        Headroom("instructions", 682, 1_000_000, "br0__uplink__xdp"),
        Headroom("instructions that the verifier goes through", 22546, 1_000_000, "guard__outside__xdp"),
        Headroom("bytes of stack", 96, 512, "br0__uplink__xdp"),
        Headroom("tail calls in a row", 1, 33, "guard__outside__xdp → br0__uplink__xdp"),
    )
    assert [limit.what for limit in headroom(UNLOADED)] == ["instructions", "tail calls in a row"]


def test_the_text() -> None:
    assert str(COST) == (
        "chain edge\n"
        "\n"
        "program              hook  instructions  verified  stack  machine code\n"
        "guard__outside__xdp  xdp            462    22,546   24 B        2.6 kB\n"
        "br0__uplink__xdp     xdp            682     7,071   96 B        3.0 kB\n"
        "\n"
        "map        type        entries  content   memory\n"
        "br0__fdb   array         1,024  65.5 kB  65.8 kB\n"
        "chain_xdp  prog_array        2      8 B    328 B\n"
        "all maps                        65.5 kB  66.1 kB\n"
        "\n"
        "longest path, 1 tail call: guard__outside__xdp → br0__uplink__xdp\n"
        "\n"
        "most used of a limit                           used      limit         by\n"
        "instructions                                    682  1,000,000   0.1%  br0__uplink__xdp\n"
        "instructions that the verifier goes through  22,546  1,000,000   2.3%  guard__outside__xdp\n"
        "bytes of stack                                   96        512  18.8%  br0__uplink__xdp\n"
        "tail calls in a row                               1         33   3.0%  "
        "guard__outside__xdp → br0__uplink__xdp\n"
    )


def test_the_text_says_what_is_left_out() -> None:
    lines = str(UNLOADED).splitlines()
    assert lines[3].split() == ["guard__outside__xdp", "xdp", "462", "-", "-", "-"]
    assert lines[9].split() == ["all", "maps", "65.5", "kB", "-"]
    assert lines[-1] == (
        "left out (stack, machine code, memory, what the verifier does): loading programs needs the privilege CAP_BPF"
    )


def test_data_for_programs() -> None:
    data = cost_data(UNLOADED)
    assert data["programs"][0] == {
        "name": "guard__outside__xdp",
        "service": "guard",
        "port": "outside",
        "hook": "xdp",
        "instructions": 462,
        "loaded": None,
    }
    assert data["maps"][0]["memory"] is None
    assert data["tail_calls"] == 1
    assert data["left_out"] == UNLOADED.left_out
    assert cost_data(COST)["headroom"][2] == {
        "what": "bytes of stack",
        "used": 96,
        "limit": 512,
        "by": "br0__uplink__xdp",
    }
