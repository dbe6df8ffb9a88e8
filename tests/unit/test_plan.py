"""Plans: what differs, why, and at what price; whole texts, from manifests and live state made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from runtime.attach import AttachPoint, Filter, Holder, Occupant
from runtime.devices import Device
from runtime.foreign import Stranger
from runtime.home import here
from runtime.host import Host, host_facts
from runtime.info import MapInfo
from runtime.pin import GenerationPins
from runtime.plan import Plan, Way, entry_updates, make_plan
from runtime.plan_text import plan_data
from runtime.record import Record
from runtime.state import LiveAttachment, LiveChain, LiveGeneration, attach_points
from runtime.whereabouts import Whereabouts
from schemas.diagnostic import LoadFailed
from schemas.manifest import AttachRecord, DeviceSlotRecord, InterfaceRecord, Manifest, MapRecord, Mode
from tests.schemas import conforms
from tests.unit.manifests import blocked, fdb, listed, program, sample, with_map, with_program

HOST = Host(
    {
        "wan": Device("eth0", None, 2, bytes.fromhex("020000000001"), 1500),
        "lan": Device("eth1", "blue", 3, bytes.fromhex("020000000002"), 1500),
        "br0.up-xdp": Device("bc0a", "blue", 4, bytes(6), 1500),
    },
    hz=250,
)
FAR_END = 5


def ifindex_of(point: AttachPoint) -> int:
    return HOST.devices[point.name].ifindex if point.name in ("wan", "lan") else FAR_END


def running(manifest: Manifest, host: Host = HOST, pending: Manifest | None = None) -> LiveChain:
    """Live state as a whole apply of `manifest` leaves it: program ids count from 100 in the manifest's order."""
    ids = {program.name: 100 + index for index, program in enumerate(manifest.programs)}
    record = Record(manifest, host_facts(manifest, host), here(), 1_700_000_000)
    pins = GenerationPins(Path("/none/generation-7"), 7, finished=True)
    maps = {found.name: MapInfo(0, 0, found.name, 0, 0, 0, 0, 0, 0, 0) for found in manifest.maps}
    attachments = tuple(
        LiveAttachment(
            point, ids[name], ifindex_of(point), pins.link(point.name), Whereabouts(point, ifindex_of(point))
        )
        for point, name in attach_points(manifest).values()
    )
    return LiveChain(manifest.chain, (LiveGeneration(pins, record, pending, ids, maps),), attachments)


def planned(wanted: Manifest, before: Manifest | None = None, host: Host = HOST) -> Plan:
    found = make_plan(wanted, running(before or sample()), host)
    conforms("plan", plan_data(found))
    return found


def lines(plan: Plan) -> list[str]:
    return str(plan).splitlines()


def test_nothing_runs_yet() -> None:
    plan = make_plan(sample(), None, HOST)
    assert plan.way is Way.GENERATION
    assert (plan.running, plan.following) == (None, 1)
    shown = lines(plan)
    assert shown[0] == "chain edge: does not run yet, becomes generation 1"
    assert shown[2] == "  + internal link  br0.up-xdp           floods into another service need a device"
    assert shown[3] == "  + map            br0__fdb             state, hash of 64, edge.yaml:20"
    assert "  + program        br0__lan__xdp        br0.lan, edge.yaml:10" in shown
    assert "  + attach point   lan                  eth1 (generic) in `blue`: br0__lan__xdp" in shown
    assert shown[-1] == "14 to add; nothing runs until all of it is loaded"


def test_no_changes() -> None:
    plan = planned(sample())
    assert not plan
    assert plan.way is Way.NOTHING
    assert str(plan) == "chain edge: no changes, generation 7 runs it\n"
    assert plan_data(plan)["differs"] is False


def test_it_is_pure() -> None:
    live = running(sample())
    wanted = with_program(sample(), program("br0__lan__xdp", b"other", aging="60s"))
    assert make_plan(wanted, live, HOST) == make_plan(wanted, live, HOST)


def test_an_inlined_constant() -> None:
    wanted = with_program(sample(), program("br0__lan__xdp", b"other", aging="60s"))
    assert str(planned(wanted)) == (
        "chain edge: generation 7 → 8\n"
        "\n"
        "  ~ program  br0__lan__xdp  inlined constant `br0.aging` 300s → 60s, edge.yaml:14\n"
        "\n"
        "1 to change; one atomic swap at each hook\n"
        "state kept: br0__fdb, guard__blocked, guard__counters, br0__counters\n"
    )


def test_another_value_in_the_same_object() -> None:
    """What the loader fills in is told like any other constant, and takes a new generation."""
    before = sample().programs[0]
    (value,) = before.values
    wanted = replace(
        program("guard__outside__xdp", limit="20/s"), values=(replace(value, value=20),), object=before.object
    )
    plan = planned(with_program(sample(), wanted))
    assert plan.way is Way.GENERATION
    assert [(change.name, change.reasons) for change in plan.changes] == [
        ("guard__outside__xdp", ("inlined constant `guard.limit` 10/s → 20/s, edge.yaml:14",))
    ]


@pytest.mark.parametrize(
    ("constants", "reasons"),
    [
        ({}, ("no more inlined constant `br0.aging` 300s",)),
        ({"aging": "300s"}, ("its connections or its code are others, edge.yaml:10",)),
        ({"aging": "300s", "size": "8"}, ("new inlined constant `br0.size` 8, edge.yaml:14",)),
        (
            {f"x{number}": "1" for number in range(6)},
            (
                *(f"new inlined constant `br0.x{number}` 1, edge.yaml:14" for number in range(4)),
                "and 3 more inlined constants",
            ),
        ),
    ],
)
def test_why_a_program_is_another(constants: dict[str, str], reasons: tuple[str, ...]) -> None:
    (change,) = planned(with_program(sample(), program("br0__lan__xdp", b"other", **constants))).changes
    assert change.reasons == reasons


def test_another_version_compiled_it() -> None:
    wanted = replace(with_program(sample(), program("br0__lan__xdp", b"other", aging="300s")), version="0.2.0")
    (change,) = planned(wanted).changes
    assert change.reasons == ("compiled by 0.2.0, before by 0.1.0",)
    assert not planned(replace(sample(), version="0.2.0")), "the same objects are the same programs"


def test_entries_change_in_place() -> None:
    plan = planned(with_map(sample(), listed(a=1, b=3, c=4)))
    assert str(plan) == (
        "chain edge: generation 7 stays\n"
        "\n"
        "  ~ entry  guard__list[guard.list b]  edge.yaml:33\n"
        "  + entry  guard__list[guard.list c]  edge.yaml:34\n"
        "\n"
        "1 to add, 1 to change; in place: nothing is loaded, nothing is swapped\n"
        "state kept: br0__fdb, guard__blocked, guard__counters, br0__counters\n"
    )
    (gone,) = planned(with_map(sample(), listed(a=1))).changes
    assert (gone.name, gone.reasons) == ("guard__list[guard.list b]", ("was at edge.yaml:32",))


def test_many_entries_are_not_all_shown() -> None:
    many = replace(listed(**{chr(97 + number): number for number in range(20)}), max_entries=64)
    plan = planned(with_map(sample(), many), with_map(sample(), replace(listed(), max_entries=64)))
    assert len(plan.changes) == 20
    assert lines(plan)[-4] == "    and 10 more entries"


def test_entries_change_with_a_swap() -> None:
    wanted = with_map(with_program(sample(), program("br0__lan__xdp", b"other", aging="60s")), listed(a=9))
    plan = planned(wanted)
    assert plan.way is Way.GENERATION
    assert {change.effect for change in plan.changes} == {"atomic swap"}


@pytest.mark.parametrize(
    ("wanted", "reason", "state"),
    [
        (fdb(size=128), "size 64 → 128, edge.yaml:20", "migrated"),
        (replace(fdb(size=128), type="BPF_MAP_TYPE_ARRAY"), "hash → array, edge.yaml:20", "lost"),
        (fdb(layout="fdb2"), "its entries have another meaning, edge.yaml:20", "lost"),
        (replace(fdb(), type="BPF_MAP_TYPE_LRU_HASH"), "hash → lru_hash, edge.yaml:20", "lost"),
        (blocked("192.0.2.0/24"), "it counts other entries than before, edge.yaml:10", "carried over"),
        (replace(listed(a=1, b=2), max_entries=16), "size 8 → 16, edge.yaml:20", None),
    ],
)
def test_maps_that_cannot_stay(wanted: object, reason: str, state: str | None) -> None:
    plan = planned(with_map(sample(), wanted))  # type: ignore[arg-type]
    (change,) = plan.changes
    assert (change.reasons, change.state) == ((reason,), state)
    assert plan.lost == ((change.name,) if state == "lost" else ())
    assert change.name not in plan.kept


def filled(name: str, what: str = "aa", size: int = 8) -> MapRecord:
    return replace(fdb(size=size), name=name, type="BPF_MAP_TYPE_ARRAY", key_size=4, layout="77", filled=what)


def with_maps(*records: MapRecord) -> Manifest:
    return replace(sample(), maps=(*sample().maps, *records))


def test_maps_that_are_filled_anew() -> None:
    """Together, whatever it is that does not let one of them stay; nothing is lost."""
    before = with_maps(filled("br0__roots"), filled("br0__ranges"))
    assert not planned(before, before)
    different = planned(with_maps(filled("br0__roots", "bb"), filled("br0__ranges", "bb")), before)
    assert [(change.name, change.reasons, change.state) for change in different.changes] == [
        ("br0__roots", ("what fills it is different, edge.yaml:20",), "filled anew"),
        ("br0__ranges", ("what fills it is different, edge.yaml:20",), "filled anew"),
    ]
    assert lines(different)[-1].endswith("; filled anew: br0__roots, br0__ranges")
    assert different.way is Way.GENERATION
    wider = planned(with_maps(filled("br0__roots", size=16), filled("br0__ranges")), before)
    assert [(change.name, change.reasons) for change in wider.changes] == [
        ("br0__roots", ("size 8 → 16, edge.yaml:20",)),
        ("br0__ranges", ("a map that is filled together with it is made anew, edge.yaml:20",)),
    ]
    live = running(before)
    (generation,) = live.generations
    pinned = {name: found for name, found in generation.maps.items() if name != "br0__ranges"}
    unpinned = make_plan(before, replace(live, generations=(replace(generation, maps=pinned),)), HOST)
    assert [(change.name, change.reasons, change.state) for change in unpinned.changes] == [
        ("br0__roots", ("a map that is filled together with it is made anew, edge.yaml:20",), "filled anew"),
        ("br0__ranges", ("its pin is gone",), "filled anew"),
    ]
    for plan in (different, wider, unpinned):
        assert not plan.lost
        assert not {"br0__roots", "br0__ranges"} & set(plan.kept)


def test_new_maps_that_are_filled() -> None:
    (change,) = planned(with_maps(filled("br0__roots"))).changes
    assert change.reasons == ("state, array of 8, edge.yaml:20", "filled before it is used")
    assert (change.action, change.state) == ("add", None)


def test_state_goes_with_its_service_and_counters_with_what_they_count() -> None:
    """A service that is gone may have been renamed only: then its state is missed."""
    gone = tuple(service for service in sample().services if service.name != "br0")
    without = tuple(record for record in sample().maps if record.service != "br0")
    states = {change.name: change.state for change in planned(replace(sample(), services=gone, maps=without)).changes}
    assert states["br0__fdb"] == "lost"
    assert states["br0__counters"] == "removed"
    feature_off = tuple(record for record in sample().maps if record.name not in ("br0__fdb", "guard__blocked"))
    plan = planned(replace(sample(), maps=feature_off))
    assert {change.name: change.state for change in plan.changes} == {
        "br0__fdb": "removed",
        "guard__blocked": "removed",
    }
    assert plan.lost == ()
    assert lines(plan)[-1] == "state kept: guard__counters, br0__counters; removed: br0__fdb, guard__blocked"


def test_a_map_whose_pin_is_gone() -> None:
    live = running(sample())
    (generation,) = live.generations
    maps = {name: found for name, found in generation.maps.items() if name != "br0__fdb"}
    plan = make_plan(sample(), replace(live, generations=(replace(generation, maps=maps),)), HOST)
    assert [(change.name, change.reasons, change.state) for change in plan.changes] == [
        ("br0__fdb", ("its pin is gone",), "lost")
    ]


def test_slots_that_lead_elsewhere() -> None:
    slots = (DeviceSlotRecord("br0__tx", 0, "wan"), sample().device_slots[1])
    (change,) = planned(replace(sample(), device_slots=slots)).changes
    assert (change.kind, change.name, change.reasons) == ("slots", "br0__tx", ("slot 0: br0.up-xdp → wan",))


def test_facts_of_the_host() -> None:
    moved = replace(HOST.devices["wan"], mac=bytes.fromhex("020000000009"))
    plan = planned(sample(), host=replace(HOST, devices={**HOST.devices, "wan": moved}))
    (change,) = plan.changes
    assert change.reasons == ("mac of wan: 02:00:00:00:00:01 → 02:00:00:00:00:09",)
    assert plan.way is Way.GENERATION


def with_attachment(name: str, **changes: object) -> LiveChain:
    live = running(sample())
    found = tuple(
        replace(attachment, **changes) if attachment.point.name == name else attachment
        for attachment in live.attachments
    )
    return replace(live, attachments=found)


def without_attachment(name: str) -> LiveChain:
    live = running(sample())
    return replace(live, attachments=tuple(found for found in live.attachments if found.point.name != name))


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (with_attachment("wan", ifindex=0), "the device was removed; it is back"),
        (with_attachment("wan", ifindex=9), "the device was made anew: ifindex 9 → 2"),
        (with_attachment("wan", prog_id=1), "another generation's program is there: an apply was interrupted"),
        (without_attachment("wan"), "nothing is attached there any more"),
    ],
)
def test_attachments_that_are_broken(live: LiveChain, reason: str) -> None:
    plan = make_plan(sample(), live, HOST)
    (change,) = plan.changes
    assert (change.kind, change.name, change.reasons) == ("attach point", "wan", (reason,))
    assert plan.way is Way.GENERATION


def test_a_mode_that_excludes_the_old_one_interrupts() -> None:
    wan, lan = sample().interfaces
    plan = planned(replace(sample(), interfaces=(wan, replace(lan, mode=Mode.NATIVE))))
    assert plan.interrupts
    assert lines(plan)[2:5] == [
        "  ~ attach point  lan  eth1 (generic) in `blue` → eth1 (native) in `blue`",
        "                       interrupts",
        "",
    ]
    assert lines(plan)[-2] == "1 to change; interrupts traffic on lan for a moment"


def test_another_device_does_not_interrupt() -> None:
    wan, lan = sample().interfaces
    plan = planned(replace(sample(), interfaces=(replace(wan, device="eth7"), lan)))
    assert not plan.interrupts
    (change,) = plan.changes
    assert change.reasons == ("eth0 (native) → eth7 (native)",)


def test_interfaces_that_come_and_go() -> None:
    added = replace(
        sample(),
        interfaces=(*sample().interfaces, InterfaceRecord("dmz", "eth3", Mode.NATIVE, None, "edge.yaml:6")),
        attach=(*sample().attach, AttachRecord("dmz", "guard__outside__xdp")),
    )
    assert lines(planned(added))[2] == "  + attach point  dmz  eth3 (native): guard__outside__xdp"
    assert lines(planned(sample(), added))[2] == "  - attach point  dmz  eth3 (native)"


def test_internal_links_that_come_and_go() -> None:
    slots = sample().device_slots[1:]
    without = replace(sample(), internal_links=(), device_slots=slots)
    kinds = [(change.action, change.kind) for change in planned(sample(), without).changes]
    assert kinds == [("add", "attach point"), ("add", "internal link"), ("change", "slots")]
    assert [(c.action, c.kind) for c in planned(without).changes] == [
        ("remove", "attach point"),
        ("remove", "internal link"),
        ("change", "slots"),
    ]


def test_a_control_plane_that_is_told_other_things() -> None:
    guard, bridge = sample().services
    wanted = replace(sample(), services=(guard, replace(bridge, control={"aging": [60, "s"]})))
    plan = planned(wanted)
    assert plan.way is Way.IN_PLACE
    assert lines(plan)[2] == "  ~ control plane  br0  its configuration is another one, edge.yaml:20"


def test_leftovers_are_removed() -> None:
    live = running(sample())
    left = GenerationPins(Path("/none/generation-8-unfinished"), 8, finished=False)
    generations = (*live.generations, LiveGeneration(left, None, None, {}, {}, "it has no record"))
    plan = make_plan(sample(), replace(live, generations=generations), HOST)
    assert plan
    assert plan.way is Way.NOTHING
    assert str(plan) == (
        "chain edge: generation 7 stays\n"
        "\n"
        "  - leftover  generation-8-unfinished  an interrupted apply or detach left it\n"
        "\n"
        "1 to remove; traffic does not notice\n"
        "state kept: br0__fdb, guard__blocked, guard__counters, br0__counters\n"
    )
    assert plan.following == 9


def test_what_cannot_be_read_is_not_compared() -> None:
    live = running(sample())
    (generation,) = live.generations
    broken = replace(live, generations=(replace(generation, record=None, problem="it is another map"),))
    with pytest.raises(LoadFailed) as caught:
        make_plan(sample(), broken, HOST)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("A112", "what runs cannot be compared: it is another map")
    assert found.help == "`bpfchain detach edge` removes the chain"


def test_as_data() -> None:
    data = plan_data(planned(with_map(sample(), fdb(size=128))))
    assert json.loads(json.dumps(data)) == {
        "taken": [],
        "format": 1,
        "chain": "edge",
        "differs": True,
        "way": "new generation",
        "generation": {"running": 7, "following": 8},
        "changes": [
            {
                "action": "change",
                "kind": "map",
                "name": "br0__fdb",
                "reasons": ["size 64 → 128, edge.yaml:20"],
                "effect": "atomic swap",
                "state": "migrated",
            }
        ],
        "state": {
            "kept": ["guard__blocked", "guard__counters", "br0__counters"],
            "carried": [],
            "migrated": ["br0__fdb"],
            "filled": [],
            "removed": [],
            "lost": [],
        },
    }


# --- updates in place -----------------------------------------------------------------------------------------------


def test_what_is_the_same_is_not_written() -> None:
    writes, deletes = entry_updates(listed(a=1, b=3, c=4), [with_map(sample(), listed(a=1, b=2, d=5))])
    assert writes == {b"b": b"\3\0\0\0", b"c": b"\4\0\0\0"}
    assert deletes == {b"d"}


def test_after_an_interruption_both_are_reckoned_with() -> None:
    """The map has what was, what was to be, or some of each."""
    was, was_to_be = with_map(sample(), listed(a=1, b=2)), with_map(sample(), listed(a=1, b=3, c=4))
    writes, deletes = entry_updates(listed(a=1, b=2), [was, was_to_be])
    assert writes == {b"b": b"\2\0\0\0"}
    assert deletes == {b"c"}


def test_an_interrupted_update_is_something_to_do() -> None:
    plan = make_plan(sample(), running(sample(), pending=with_map(sample(), listed(c=1))), HOST)
    assert plan
    assert plan.way is Way.IN_PLACE
    conforms("plan", plan_data(plan))
    assert lines(plan) == [
        "chain edge: generation 7 stays",
        "",
        "  ~ leftover  update in place  an apply was interrupted while it wrote entries",
        "",
        "1 to change; in place: nothing is loaded, nothing is swapped",
        *lines(plan)[5:],
    ]


TAKEN = """\
taken by others, which `apply` refuses:
  ! lan  chain `other`, attached as TC filter `bpfchain:other:lan:9:`
  ! wan  program 71 `filter`, attached as XDP link 12, loaded 3 hours ago by user root
         `--replace eth0=71` takes it over, and interrupts traffic
  ! wan  program 72, attached as XDP
         `--replace eth0=72` takes it over

"""


def test_who_is_on_the_hooks() -> None:
    wan = AttachPoint("wan", "eth0", None, Mode.NATIVE)
    name = "bpfchain:other:lan:9:"
    others = (
        Stranger(
            AttachPoint("lan", "eth1", "blue", Mode.TC),
            Occupant(9, Holder.FILTER, Mode.TC, filter=Filter("bpf", name, 0, 1, 9)),
        ),
        Stranger(wan, Occupant(71, Holder.XDP_LINK, Mode.GENERIC, 12), "filter", 0, 10_921),
        Stranger(wan, Occupant(72, Holder.XDP, Mode.NATIVE)),
    )
    plan = replace(make_plan(sample(), None, HOST), taken=others)
    assert TAKEN in str(plan)
    data = plan_data(plan)
    conforms("plan", data)
    assert data["taken"][0]["chain"] == "other"
    assert [found["replace"] for found in data["taken"]] == [None, "eth0=71", "eth0=72"]
    assert data["taken"][2]["program"] == {"id": 72, "name": None}
    assert plan.granting([("eth0", 71), ("eth0", 9)]).taken == (others[0], others[2])
