"""10,000 mutated chain files: each is a chain, or an `InvalidChain` that can be shown; nothing else comes out."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.resolve import resolve
from compiler.source import read
from schemas.diagnostic import Diagnostic, InvalidChain
from schemas.render import Format, render
from tests.unit.toy_services import toys_only

CHAINS = [
    b"""\
chain: edge
mode: native
interfaces:
  wan: {device: eth0, netns: blue}
  lan: {device: eth1, mode: generic}
services:
  guard: {kind: tube, prefixes: [198.51.100.0/24, "2001:db8:bad::/48"], aging: 300s, protocols: [tcp, 47]}
  gate: {kind: gate}
links:
  - [wan, guard.outside]
  - [guard.inside, gate.left]
  - [gate.right, lan]
""",
    b"""\
chain: office
mode: tc
interfaces:
  one: &eth {device: eth0}
  two: {device: "eth1"}
services:
  sw:
    kind: hub
    ports: {p1: {}, p2: {speed: 010}, up: {}}   # \xc3\xa9\xf0\x9f\x98\x80
  tube:
    kind: tube
    mac: 52:54:00:12:34:56
    gateway: 203.0.113.1
    share: 0.5
    mark: 'ff'
links: [[one, sw.p1], [two, sw.p2], [sw.up, tube.outside], [tube.inside, host]]
""",
]
TREES = [read("fuzz.yaml", text).data for text in CHAINS]

SCRAPS = [
    b"\t",
    b"\r\n",
    b"\n",
    b"  ",
    b"- ",
    b": ",
    b"&a ",
    b"*a",
    b"<<: *eth",
    b"!!int ",
    b"!x ",
    b"{",
    b"}",
    b"[",
    b"]",
    b"'",
    b'"',
    b"|\n",
    b">-\n",
    b"? ",
    b"---\n",
    b"...\n",
    b"%YAML 1.1\n",
    b"#",
    b"~",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"host",
    b"from-host",
    b"guard.outside",
    b"9" * 120,
    b".inf",
    b".nan",
    b"1e999",
    b"0x",
    b"\\",
    b"@",
    b"`",
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**70,
    0.5,
    float("inf"),
    float("nan"),
    "",
    "host",
    "from-host",
    ".",
    "..",
    "a.b.c",
    "guard.outside",
    "sw.p1",
    "wan",
    "10.0.0.0/8",
    "10.1.2.3/8",
    "::/0",
    "fe80::1%eth0",
    "1.2.3.4/255.0.0.0",
    "x" * 300,
    "\x00",
    "\n",
    "é😀",
    "١",
    "tube",
    "hub",
    "gate",
    "router",
    "tc",
    "5m",
    "1e400s",
    "9" * 30 + "d",
    [],
    {},
    [[]],
    {"": {}},
    {"kind": "hub"},
    {"device": "a/b"},
    {"kind": ["tube"]},
    {"kind": "hub", "ports": {"a": {}, "b": None}},
    ["wan", "lan"],
    ["host", "host"],
    ["sw.p1", "sw.p1"],
]


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a tree."""
    items = list(data.items()) if isinstance(data, dict) else list(enumerate(data)) if isinstance(data, list) else []
    found = [(data, key) for key, _ in items]
    for _, item in items:
        found += places(item)
    return found


def change_tree(choose: random.Random, tree: Any) -> None:
    """One change of structure, in place: a value replaced, removed, moved, copied or put under another key."""
    container, key = choose.choice(places(tree) or [({"": None}, "")])
    other, other_key = choose.choice(places(tree) or [({"": None}, "")])
    match choose.randrange(5):
        case 0:
            container[key] = copy.deepcopy(choose.choice(VALUES))
        case 1:
            del container[key]
        case 2:
            container[key], other[other_key] = copy.deepcopy(other[other_key]), copy.deepcopy(container[key])
        case 3 if isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        case _ if isinstance(container, dict):
            container[choose.choice([*map(str, VALUES), "kind", "ports", str(other_key)])] = container.pop(key)


def change_bytes(choose: random.Random, text: bytes) -> bytes:
    """One change of the text: a stretch removed, doubled or overwritten, or a scrap put in."""
    start = choose.randrange(len(text) + 1)
    end = min(len(text), start + choose.randrange(1, 20))
    match choose.randrange(4):
        case 0:
            return text[:start] + text[end:]
        case 1:
            return text[:end] + text[start:]
        case 2:
            return text[:start] + bytes([choose.randrange(256)]) + text[start + 1 :]
    return text[:start] + choose.choice(SCRAPS) + text[start:]


def mutated(seed: int) -> bytes:
    """A chain file with one to four changes, of structure, of bytes, or of both."""
    choose = random.Random(seed)
    which = choose.randrange(len(CHAINS))
    text = CHAINS[which]
    if choose.random() < 0.6:
        tree = copy.deepcopy(TREES[which])
        for _ in range(choose.randrange(1, 4)):
            change_tree(choose, tree)
        text = json.dumps(tree, ensure_ascii=choose.random() < 0.5).encode("utf-8", "surrogatepass")
        if choose.random() < 0.7:
            return text
    for _ in range(choose.randrange(1, 4)):
        text = change_bytes(choose, text)
    return text


def accepted(text: bytes) -> bool:
    """Whether it is a chain. Where it is not, the diagnostics must render in every form and lie in the file."""
    try:
        chain = resolve(read("fuzz.yaml", text))
    except InvalidChain as error:
        check_shown(error.diagnostics, text.decode("utf-8-sig", "replace"))
        return False
    assert chain.links
    return True


def check_shown(diagnostics: tuple[Diagnostic, ...], text: str) -> None:
    assert diagnostics
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for found in diagnostics:
        assert found.span is not None
        assert 1 <= found.span.line <= found.span.end_line <= len(lines) + 1
        assert 1 <= found.span.column <= len(lines[found.span.line - 1]) + 1
    for form in Format:
        assert render(diagnostics, {"fuzz.yaml": text}, form)


@settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**64))
def test_mutated_chains(seed: int) -> None:
    text = mutated(seed)
    with toys_only():
        accepted(text)


def test_mutations_begin_with_valid_chains_and_go_far() -> None:
    with toys_only():
        assert all(accepted(text) for text in CHAINS)
        verdicts = [accepted(mutated(seed)) for seed in range(500)]
    assert 0.02 < sum(verdicts) / len(verdicts) < 0.5
