"""Scenes for the bridge, who may be learned where: sticky stations, limits of ports, moves, static entries in maps."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.services.bridge_frames import BROADCAST, CAMERA, FLOOD, GATEWAY, PRINTER, A, B, C, D, E, mac, row
from tests.services.harness import Scene
from tests.services.model_bridge import BridgeModel

PORTS = ("p1", "p2", "p3")
INTRUDER, BEYOND = "drop intruder", "drop station-limit"


def bridge(fdb: Mapping[str, Any] | None = None, **stations: Mapping[str, Any]) -> dict[str, Any]:
    """What a chain file has under the service's name; `stations` are the rules of ports."""
    ports = {port: {"stations": dict(stations[port])} if port in stations else {} for port in PORTS}
    return {"kind": "bridge", **({"fdb": dict(fdb)} if fdb else {}), "ports": ports}


STICKY = Scene(
    "sticky",
    bridge(p1={"sticky": True}),
    PORTS,
    partial(BridgeModel, PORTS, sticky=frozenset({"p1"})),
    [
        row("learned where stations stay", "p1", A, BROADCAST, FLOOD),
        row("its address from elsewhere: the frame goes on", "p2", A, BROADCAST, FLOOD),
        row("but it has not moved", "p3", C, A, "out p1"),
        row("a station elsewhere", "p3", C, B, FLOOD),
        row("away from a port that is not sticky", "p2", C, A, "out p1"),
        row("and are followed", "p1", A, C, "out p2"),
        row("also to one that is", "p1", C, BROADCAST, FLOOD),
        row("where they stay", "p3", C, BROADCAST, FLOOD),
        row("from then on", "p3", B, C, "out p1"),
    ],
)

STICKY_DROP = Scene(
    "sticky, intruders dropped",
    bridge({"intruders": "drop", "static": [{"mac": GATEWAY, "port": "p3"}]}, p1={"sticky": True}),
    PORTS,
    partial(BridgeModel, PORTS, sticky=frozenset({"p1"}), drop_intruders=True, static={mac(GATEWAY): "p3"}),
    [
        row("learned where stations stay", "p1", A, BROADCAST, FLOOD),
        row("its address from elsewhere", "p2", A, BROADCAST, INTRUDER),
        row("it goes on itself", "p1", A, B, FLOOD),
        row("a static station's address from elsewhere", "p1", GATEWAY, A, INTRUDER),
        row("from another port still", "p2", GATEWAY, BROADCAST, INTRUDER),
        row("it speaks from its own port", "p3", GATEWAY, A, "out p1"),
        row("one that is neither may move", "p2", B, BROADCAST, FLOOD),
        row("anywhere", "p3", B, A, "out p1"),
    ],
)

LIMIT = Scene(
    "limit",
    bridge(p1={"limit": 2}),
    PORTS,
    partial(BridgeModel, PORTS, limits={"p1": 2}),
    [
        row("the first", "p1", A, BROADCAST, FLOOD),
        row("the second", "p1", B, BROADCAST, FLOOD),
        row("the third is forwarded", "p1", C, A, "drop same-port"),
        row("wherever it sends to", "p1", C, BROADCAST, FLOOD),
        row("but not learned", "p2", D, C, FLOOD),
        row("the others are", "p2", D, B, "out p1"),
        row("and stay so", "p1", A, D, "out p2"),
        row("one that is known elsewhere does not move to a full port", "p1", D, BROADCAST, FLOOD),
        row("so it is where it was", "p1", A, D, "out p2"),
        row("other ports have no limit", "p2", C, BROADCAST, FLOOD),
        row("and the third is known there", "p1", A, C, "out p2"),
    ],
)

LIMIT_DROP = Scene(
    "limit, others dropped",
    bridge({"static": [{"mac": GATEWAY, "port": "p1"}]}, p1={"limit": 1, "beyond": "drop"}, p2={"limit": 1}),
    PORTS,
    partial(
        BridgeModel,
        PORTS,
        limits={"p1": 1, "p2": 1},
        dropping=frozenset({"p1"}),
        static={mac(GATEWAY): "p1"},
    ),
    [
        row("a static station does not count", "p1", GATEWAY, BROADCAST, FLOOD),
        row("the first", "p1", A, BROADCAST, FLOOD),
        row("the second", "p1", B, BROADCAST, BEYOND),
        row("whoever it sends to", "p1", B, A, BEYOND),
        row("the first goes on", "p1", A, GATEWAY, "drop same-port"),
        row("the static station too", "p1", GATEWAY, BROADCAST, FLOOD),
        row("each port has a count of its own", "p2", C, A, "out p1"),
        row("and its own choice", "p2", D, A, "out p1"),
        row("unlearned", "p3", E, D, FLOOD),
        row("unlearned here", "p3", E, B, FLOOD),
    ],
)

MOVES = Scene(
    "moves",
    bridge({"moves": {"station": "2/s", "hold": "1h"}}),
    PORTS,
    partial(BridgeModel, PORTS, moves=2),
    [
        row("a station", "p1", A, BROADCAST, FLOOD),
        row("moves", "p2", A, BROADCAST, FLOOD),
        row("and is followed", "p3", C, A, "out p2"),
        row("moves again", "p1", A, BROADCAST, FLOOD),
        row("and is followed again", "p3", C, A, "out p1"),
        row("the third time in a moment", "p2", A, BROADCAST, FLOOD),
        row("it is not followed", "p3", C, A, "out p1"),
        row("nor the fourth time", "p3", A, BROADCAST, FLOOD),
        row("it stays known", "p2", B, A, "out p1"),
        row("others are followed", "p1", B, BROADCAST, FLOOD),
        row("as ever", "p3", C, B, "out p1"),
    ],
)

LIMIT_AND_MOVES = Scene(
    "limit and moves",
    bridge({"moves": {"station": "1/s", "hold": "1h"}}, p2={"limit": 2}),
    PORTS,
    partial(BridgeModel, PORTS, moves=1, limits={"p2": 2}),
    [
        row("a station", "p1", A, BROADCAST, FLOOD),
        row("another", "p1", E, BROADCAST, FLOOD),
        row("that moves", "p3", E, BROADCAST, FLOOD),
        row("twice: it is not followed", "p2", E, BROADCAST, FLOOD),
        row("so it takes no place where it was not followed to", "p2", B, BROADCAST, FLOOD),
        row("of two that there are", "p2", D, BROADCAST, FLOOD),
        row("both are known", "p1", A, B, "out p2"),
        row("both", "p1", A, D, "out p2"),
        row("no room for one more: that is no move", "p2", A, BROADCAST, FLOOD),
        row("however often", "p2", A, BROADCAST, FLOOD),
        row("it stays known where it was", "p3", E, A, "out p1"),
        row("and may move to where there is room", "p3", A, BROADCAST, FLOOD),
        row("at once", "p2", B, A, "out p3"),
    ],
)

STATICS = [{"mac": GATEWAY, "port": "p1"}, {"mac": PRINTER, "port": "p2"}, {"mac": CAMERA, "port": "p2"}]
HOMES = {mac(entry["mac"]): entry["port"] for entry in STATICS}


def statics(name: str, inline: int, intruders: str) -> Scene:
    """One list of static stations; the first `inline` of them are code, the others in a map, and nobody can tell."""
    drops = intruders == "drop"
    claimed = INTRUDER if drops else FLOOD
    return Scene(
        name,
        bridge({"static": STATICS, "inline": inline, "intruders": intruders}),
        PORTS,
        partial(BridgeModel, PORTS, static=HOMES, drop_intruders=drops),
        [
            row("the first", "p3", A, GATEWAY, "out p1"),
            row("the second", "p3", A, PRINTER, "out p2"),
            row("the third", "p3", A, CAMERA, "out p2"),
            row("between two of them", "p2", CAMERA, GATEWAY, "out p1"),
            row("on its own port", "p2", CAMERA, PRINTER, "drop same-port"),
            row("somebody claims the second's address, which has not spoken", "p3", PRINTER, BROADCAST, claimed),
            row("somebody claims the first's", "p3", GATEWAY, BROADCAST, claimed),
            row("somebody claims the third's", "p1", CAMERA, BROADCAST, claimed),
            row("and is not believed", "p1", B, CAMERA, "out p2"),
            row("nor the other", "p2", C, GATEWAY, "out p1"),
            row("who is not in the list is learned", "p2", C, A, "out p3"),
            row("and found", "p1", B, C, "out p2"),
            row("a neighbour of the third is nobody", "p1", B, "52:54:00:00:00:03", FLOOD),
        ],
    )


RULES = (
    STICKY,
    STICKY_DROP,
    LIMIT,
    LIMIT_DROP,
    MOVES,
    LIMIT_AND_MOVES,
    statics("static stations in code", 256, "forward"),
    statics("static stations in a map", 0, "forward"),
    statics("static stations in both", 1, "drop"),
)
