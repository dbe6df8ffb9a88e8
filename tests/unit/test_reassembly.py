"""Fragments put together again: any split, order and duplicates; overlaps, lengths that cannot be, time and memory."""

from __future__ import annotations

import itertools
import random
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.protocols.internet import HOP_BY_HOP, ICMPV6, UDP, Ipv4, Ipv6, read_ipv4, read_ipv6
from runtime.protocols.reassembly import (
    COST,
    INCOMPLETE_CHAIN,
    Fragment,
    FragmentProblem,
    Reassembler,
    fragment4,
    fragment6,
    key4,
    whole4,
)
from tests.services.router_frames import FRAGMENT, ipv6

HERE, THERE = IPv4Address("10.7.1.10"), IPv4Address("10.7.1.1")
HERE6, THERE6 = IPv6Address("fd00:1::10"), IPv6Address("fd00:1::1")
CONTENT = bytes(index % 251 for index in range(4000))


def pieces(content: bytes, *cuts: int) -> list[Fragment]:
    """The content in parts that begin at 0 and at each of `cuts`."""
    starts = [0, *cuts, len(content)]
    return [Fragment(start, content[start:end], end == len(content)) for start, end in itertools.pairwise(starts)]


def put_together(fragments: list[Fragment]) -> list[tuple[Fragment, bytes]]:
    """All that becomes whole; where it came from is the fragment itself."""
    made: Reassembler[Fragment] = Reassembler(30)
    found = [made.add("key", fragment, fragment, 0.0) for fragment in fragments]
    return [each for each in found if each]


@st.composite
def split(draw: st.DrawFn) -> tuple[bytes, list[Fragment]]:
    """A datagram, and its fragments in any order, some of them twice before the last of them comes."""
    units = draw(st.integers(2, 60))
    content = CONTENT[: 8 * (units - 1) + draw(st.integers(1, 8))]
    cuts = sorted(draw(st.sets(st.integers(1, units - 1), min_size=1)))
    fragments = draw(st.permutations(pieces(content, *(8 * cut for cut in cuts))))
    again = draw(st.lists(st.sampled_from(fragments[:-1])))
    return content, [*draw(st.permutations([*fragments[:-1], *again])), fragments[-1]]


@given(split())
def test_what_was_cut_is_whole_again(cut: tuple[bytes, list[Fragment]]) -> None:
    content, fragments = cut
    ((first, whole),) = put_together(fragments)
    assert (first.at, whole) == (0, content)


@given(split(), st.data())
def test_what_lacks_a_part_never_becomes_whole(cut: tuple[bytes, list[Fragment]], data: st.DataObject) -> None:
    _, fragments = cut
    missing = data.draw(st.sampled_from(fragments))
    assert not put_together([each for each in fragments if each != missing])


@given(st.permutations(pieces(CONTENT[:64], 16, 32, 48)), st.sampled_from([1, 3, 5, 7]), st.integers(1, 7), st.data())
def test_an_overlap_breaks_all_of_it(order: list[Fragment], at: int, units: int, data: st.DataObject) -> None:
    """RFC 5722: what is there is dropped, and what comes later as well. The forged one begins within another."""
    forged = Fragment(8 * at, bytes(8 * units), False)
    if forged.end > 64:
        forged = forged._replace(content=bytes(64 - forged.at), is_last=True)
    place = data.draw(st.integers(0, len(order) - 1))
    assert not put_together([*order[:place], forged, *order[place:], *order])


@pytest.mark.parametrize(
    "forged",
    [
        Fragment(56, bytes(8), True),
        Fragment(56, bytes(16), False),
        Fragment(24, bytes(8), True),
        Fragment(64, bytes(8), False),
        Fragment(64, bytes(8), True),
        Fragment(48, CONTENT[48:64], False),
    ],
    ids=[
        "an earlier end",
        "over the end",
        "an end in the middle",
        "behind the end",
        "another end",
        "an end that is none",
    ],
)
def test_ends_that_contradict_each_other_break_all_of_it(forged: Fragment) -> None:
    first, second, *rest = pieces(CONTENT[:64], 16, 32, 48)
    assert not put_together([first, rest[-1], forged, second, *rest])


def test_an_end_before_what_has_come_breaks_all_of_it() -> None:
    first, second, third = pieces(CONTENT[:48], 16, 32)
    assert not put_together([third._replace(is_last=False), second._replace(is_last=True), first])


def test_an_empty_fragment_changes_nothing() -> None:
    first, second = pieces(CONTENT[:64], 32)
    ((_, whole),) = put_together([Fragment(0, b"", False), first, Fragment(64, b"", True), second])
    assert whole == CONTENT[:64]


def test_datagrams_do_not_mix() -> None:
    made: Reassembler[str] = Reassembler(30)
    (one, end), (two, other) = pieces(CONTENT[:16], 8), pieces(CONTENT[16:32], 8)
    assert made.add("a", one, "one", 0.0) is None
    assert made.add("b", two, "two", 0.0) is None
    assert made.add("b", other, "end", 0.0) == ("two", CONTENT[16:32])
    assert made.add("a", end, "end", 0.0) == ("one", CONTENT[:16])
    assert (len(made), made.cost) == (0, 0)


def test_time_runs_from_the_fragment_that_comes_first() -> None:
    """Only of what has its beginning is the sender told, and of what was broken never."""
    made: Reassembler[str] = Reassembler(30)
    first, middle, last = pieces(CONTENT[:48], 16, 32)
    made.add("begun", last, "last", 0.0)
    made.add("begun", first, "first", 20.0)
    made.add("not begun", last, "last", 5.0)
    made.add("broken", first, "first", 6.0)
    made.add("broken", Fragment(8, bytes(16), False), "forged", 6.0)
    made.add("later", first, "later", 10.0)
    assert list(made.expired(29.9)) == []
    assert list(made.expired(36.0)) == ["first"]
    assert len(made) == 1
    assert made.add("begun", middle, "middle", 36.0) is None, "what is given up is forgotten"
    assert list(made.expired(40.0)) == ["later"]


def test_of_too_many_the_oldest_goes() -> None:
    made: Reassembler[int] = Reassembler(30, most_datagrams=4)
    first, last = pieces(CONTENT[:16], 8)
    for number in range(6):
        made.add(number, first, number, float(number))
    assert len(made) == 4
    assert [made.add(number, last, number, 6.0) is not None for number in range(2, 6)] == [True] * 4
    assert list(made.expired(100.0)) == []


def test_of_too_many_bytes_the_oldest_goes() -> None:
    """Tiny fragments count for what they take beside their content."""
    made: Reassembler[int] = Reassembler(30, most_bytes=20 * COST)
    generator = random.Random(4)
    for number in range(500):
        made.add(number // 3, Fragment(8 * generator.randrange(8000), bytes(8), False), number, 0.0)
        assert made.cost <= 20 * COST
    assert 1 < len(made) < 20
    list(made.expired(30.0))
    assert (len(made), made.cost) == (0, 0)


def test_the_frame_of_the_first_fragment_counts() -> None:
    made: Reassembler[int] = Reassembler(30)
    first, _ = pieces(CONTENT[:3000], 1504)
    made.add("key", first, 0, 0.0)
    assert made.cost == COST + COST + 2 * 1504


# --- IPv4 -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 3900), st.integers(68, 1500), st.sampled_from([b"", b"\x94\x04\0\0", b"\x07\x07\x04" + bytes(5)]))
def test_ipv4_is_what_it_was(size: int, mtu: int, options: bytes) -> None:
    packet = Ipv4(HERE, THERE, UDP, CONTENT[: size + 100], 7, 8, 99, options=options)
    made: Reassembler[Ipv4] = Reassembler(30)
    found = None
    for piece in packet.cut(mtu):
        fragment = fragment4(read_ipv4(piece.packed()))
        assert fragment
        found = made.add(key4(piece), fragment, piece, 0.0) or found
    assert found
    assert whole4(*found) == packet


@pytest.mark.parametrize(
    ("size", "fragment"), [(9, 0x2000), (7, 0x2001), (100, 0x1FFF), (8, 0x1FFE)], ids=["odd", "tiny", "long", "edge"]
)
def test_ipv4_that_cannot_be_a_fragment(size: int, fragment: int) -> None:
    assert fragment4(Ipv4(HERE, THERE, UDP, bytes(size), fragment=fragment)) is None


def test_ipv4_as_long_as_can_be() -> None:
    packet = Ipv4(HERE, THERE, UDP, bytes(65515 - 65512 % 8), fragment=0)
    assert len(packet.packed()) <= 65535
    assert fragment4(Ipv4(HERE, THERE, UDP, bytes(3), fragment=65512 // 8)) == (65512, bytes(3), True)
    assert fragment4(Ipv4(HERE, THERE, UDP, bytes(4), fragment=65512 // 8)) is None
    first = Ipv4(HERE, THERE, UDP, bytes(8), options=bytes(40))
    assert whole4(first, bytes(65475))
    assert whole4(first, bytes(65476)) is None


# --- IPv6 -------------------------------------------------------------------------------------------------------------

HOPS = bytes((FRAGMENT, 0)) + b"\1\4" + bytes(4)
"""A hop-by-hop header of padding, before a fragment header."""


def part(
    at: int, content: bytes, *, more: bool = False, protocol: int = UDP, before: bytes = b"", identification: int = 7
) -> Ipv6:
    """A fragment, with headers before its fragment header."""
    header = struct.pack("!BBHI", protocol, 0, at | more, identification)
    start = HOP_BY_HOP if before else FRAGMENT
    return read_ipv6(ipv6(str(HERE6), str(THERE6), before + header + content, protocol=start))


@given(st.integers(0, 2500), st.integers(1280, 1500))
def test_ipv6_is_what_it_was(size: int, mtu: int) -> None:
    packet = Ipv6(HERE6, THERE6, ICMPV6, CONTENT[: size + 1461], 7)
    made: Reassembler[Ipv6] = Reassembler(60)
    found = None
    for piece in packet.cut(mtu, 0xDEADBEEF):
        assert len(piece.packed()) <= mtu
        fragment = fragment6(read_ipv6(piece.packed()))
        assert fragment
        found = made.add(fragment.key, fragment.fragment, piece, 0.0) or found
    assert found
    begins = fragment6(found[0])
    assert begins
    assert begins.whole(found[1]) == packet


def test_headers_before_the_fragment_header_stay() -> None:
    first, second = part(0, CONTENT[:16], more=True, before=HOPS), part(16, CONTENT[16:20], protocol=99)
    found = [fragment6(each) for each in (first, second)]
    assert found[0]
    assert found[1]
    assert found[0].key == found[1].key
    whole = found[0].whole(CONTENT[:20])
    assert whole == Ipv6(HERE6, THERE6, HOP_BY_HOP, bytes((UDP,)) + HOPS[1:] + CONTENT[:20])
    assert whole.transport() == (UDP, CONTENT[:20], False)


def test_what_is_whole_is_no_fragment() -> None:
    """RFC 6946: be it with a fragment header."""
    assert fragment6(part(0, CONTENT[:20])) is None
    assert fragment6(Ipv6(HERE6, THERE6, UDP, CONTENT[:20])) is None
    assert fragment6(Ipv6(HERE6, THERE6, FRAGMENT, bytes(7))) is None


@pytest.mark.parametrize(
    ("wrong", "pointer", "code"),
    [
        (part(0, bytes(12), more=True), 4, 0),
        (part(0, bytes(12), more=True, before=HOPS), 4, 0),
        (part(65528, bytes(8)), 42, 0),
        (part(65520, bytes(16), before=HOPS), 50, 0),
        (part(0, bytes(16), more=True, protocol=6), 0, INCOMPLETE_CHAIN),
        (part(0, bytes(8), more=True, protocol=60), 0, INCOMPLETE_CHAIN),
    ],
    ids=["odd", "odd, behind options", "too long", "too long, behind options", "half of TCP", "only options"],
)
def test_ipv6_that_cannot_be_a_fragment(wrong: Ipv6, pointer: int, code: int) -> None:
    """RFC 8200 4.5, RFC 7112 5."""
    found = fragment6(wrong)
    assert found
    with pytest.raises(FragmentProblem) as problem:
        _ = found.fragment
    assert (problem.value.pointer, problem.value.code) == (pointer, code)


def test_ipv6_as_long_as_can_be() -> None:
    found = fragment6(part(65528, bytes(7)))
    assert found
    assert found.fragment.end == 65535
    behind_options = fragment6(part(0, bytes(8), more=True, before=HOPS))
    assert behind_options
    assert behind_options.whole(bytes(65527))
    assert behind_options.whole(bytes(65528)) is None
