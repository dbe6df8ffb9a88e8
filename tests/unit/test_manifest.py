"""Manifests as text: exact inverses, and nothing corrupt or contradictory ever gets through."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import os
import random
import stat
import typing
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec import Struct
from msgspec.structs import replace

from schemas import manifest as records
from schemas.compiled import CompiledChain, load, object_file, save
from schemas.diagnostic import Diagnostic, LoadFailed
from schemas.manifest import HostFact, Manifest, Mode, Role, Scope
from schemas.manifest_json import check_schema, from_data, from_json, to_json
from schemas.references import broken_references
from tests.unit.manifests import counters, links, listed, program, sample, sample_chain, with_map, with_program

SCHEMA = json.loads((files("schemas") / "manifest.schema.json").read_text(encoding="utf-8"))
MUTATIONS = 2500


def refused(text: str | bytes) -> tuple[str, str]:
    """Code and message of the first finding."""
    with pytest.raises(LoadFailed) as caught:
        from_json(text)
    found = caught.value.diagnostics[0]
    return found.code, found.message


def test_inverse() -> None:
    assert from_json(to_json(sample())) == sample()
    assert to_json(from_json(to_json(sample()))) == to_json(sample())


def test_the_text_is_readable_and_complete() -> None:
    data = json.loads(to_json(sample()))
    assert list(data) == list(Manifest.__struct_fields__)
    assert data["maps"][1]["entries"][0] == {
        "key": "61",
        "value": "01000000",
        "path": "guard.list a",
        "span": "edge.yaml:31",
    }


# --- the schema -----------------------------------------------------------------------------------------------------


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check_schema(json.loads(to_json(sample())))


def test_the_schema_and_the_records_are_the_same() -> None:
    """A field that is in one and not in the other would get through, or lock everybody out."""
    described = {"manifest": SCHEMA, **SCHEMA["$defs"]}
    of_the_file = {"digest"}
    for record in vars(records).values():
        if not (isinstance(record, type) and issubclass(record, Struct) and record is not Struct):
            continue
        name = (
            "".join(f"-{c.lower()}" if c.isupper() else c for c in record.__name__).strip("-").removesuffix("-record")
        )
        fields = list(record.__struct_fields__)
        assert [key for key in described[name]["properties"] if key not in of_the_file] == fields, name
        assert described[name]["required"] == fields, name
        assert described[name]["additionalProperties"] is False, name


def test_the_schema_describes_everything() -> None:
    def undescribed(schema: Any, place: str) -> list[str]:
        found = [] if "description" in schema or "$ref" in schema else [place]
        for name, inner in schema.get("properties", {}).items():
            found += undescribed(inner, f"{place}.{name}")
        return found

    lacking = [place for name, schema in SCHEMA["$defs"].items() for place in undescribed(schema, name)]
    assert lacking + undescribed(SCHEMA, "manifest") == []


def test_the_schema_has_every_choice() -> None:
    for enum, place in [
        (Mode, SCHEMA["$defs"]["interface"]["properties"]["mode"]),
        (Role, SCHEMA["$defs"]["map"]["properties"]["role"]),
        (Scope, SCHEMA["$defs"]["map"]["properties"]["scope"]),
        (HostFact, SCHEMA["$defs"]["host-symbol"]["properties"]["fact"]),
        (records.Hook, SCHEMA["$defs"]["hook"]),
    ]:
        assert place["enum"] == [choice.value for choice in enum]


def test_schema_errors_name_the_place() -> None:
    data = json.loads(to_json(sample()))
    data["interfaces"][1]["mode"] = "fast"
    with pytest.raises(LoadFailed) as caught:
        check_schema(data)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == (
        "M104",
        "manifest.interfaces[1].mode: 'fast' is not one of ['native', 'generic', 'tc']",
    )


# --- what is no manifest --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("", "M102", "the manifest is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[" * 100_000, "M102", "the manifest is not JSON: it is nested too deeply"),
        ('{"format": NaN}', "M102", "the manifest is not JSON: NaN is no number in JSON"),
        ('{"format": 1, "format": 1}', "M102", "the manifest is not JSON: an object has the same key twice"),
        (b"\xff\xfe{", "M102", "the manifest is not JSON: "),
        ("[]", "M103", "this is not a manifest: it has no format number"),
        ('{"format": true}', "M103", "this is not a manifest: it has no format number"),
        ('{"format": 1}', "M103", "the manifest has format 1, and this version of bpfchain reads format 3"),
        ('{"format": 3}', "M104", "manifest: the field `version` is missing"),
        ('{"format": 3, "extra": 1}', "M104", "manifest: there is no field `extra`"),
    ],
)
def test_not_a_manifest(text: str | bytes, code: str, message: str) -> None:
    found = refused(text)
    assert found[0] == code
    assert found[1].startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(maps=None), "manifest.maps: null is not a list"),
        (lambda d: d.update(version="\ud800"), 'manifest.version: "\\ud800" is not a string'),
        (lambda d: d.update(chain=5), "manifest.chain: 5 is not a string"),
        (lambda d: d["maps"][0].update(key_size=True), "manifest.maps[0].key_size: true is not an integer"),
        (lambda d: d["maps"][0].update(key_size=8.0), "manifest.maps[0].key_size: 8.0 is not an integer"),
        (lambda d: d["maps"][0].update(role="best"), 'manifest.maps[0].role: "best" is not `state` or '),
        (lambda d: d["maps"][1]["entries"][0].update(key="6"), 'manifest.maps[1].entries[0].key: "6" is not lower-'),
        (lambda d: d["maps"][1]["entries"][0].update(key="6 1"), 'manifest.maps[1].entries[0].key: "6 1" is not lower'),
        (lambda d: d["programs"].append(7), "manifest.programs[3]: 7 is not an object"),
        (
            lambda d: d["services"][0].update(drop_reasons=[[1]]),
            "manifest.services[0].drop_reasons[0]: [1] is not a li",
        ),
    ],
)
def test_wrong_types_name_the_place(change: Callable[[Any], None], message: str) -> None:
    data = json.loads(to_json(sample()))
    change(data)
    code, found = refused(json.dumps(data))
    assert code == "M104"
    assert found.startswith(message)


# --- contradictions -------------------------------------------------------------------------------------------------

S = sample()
FIRST_MAP = S.maps[0]
LIMIT = "value_guard__limit"


def with_values(*values: int, symbol: str = LIMIT) -> Manifest:
    given = tuple(records.ValueRecord(symbol, value) for value in values)
    return with_program(S, replace(S.programs[0], values=given))


CONTRADICTIONS: dict[str, Manifest] = {
    "object `objects/": replace(S, objects=S.objects * 2),
    "program `guard__inside__xdp` refers to object `": replace(S, objects=(S.objects[0], S.objects[2])),
    "program `x__y__xdp` refers to service `x`": replace(
        S, programs=(*S.programs, program("x__y__xdp", next(iter(sample_chain().objects.values()))))
    ),
    "program `br0__lan__xdp` refers to port `br0.wan`": with_program(S, replace(S.programs[2], port="wan")),
    "map `br0__fdb` refers to service `br9`": with_map(S, replace(FIRST_MAP, service="br9")),
    "map `br0__fdb` has scope chain and a service": with_map(S, replace(FIRST_MAP, scope=Scope.CHAIN)),
    "map `br0__fdb` has a number that does not fit": with_map(S, replace(FIRST_MAP, max_entries=1 << 32)),
    "an entry of map `guard__list` (`guard.list a`) has not the size": with_map(S, replace(listed(a=1), value_size=3)),
    "map `guard__list` has room for 1 of 2 entries": with_map(S, replace(listed(a=1, b=2), max_entries=1)),
    "map `guard__list`: key `61` is there 2 times": with_map(S, replace(listed(), entries=listed(a=1).entries * 2)),
    "map `guard__list` (config) is filled, but not state": with_map(S, replace(listed(), filled="aa")),
    "a tail slot refers to map `none`": replace(S, tail_slots=(replace(S.tail_slots[0], map="none"),)),
    "tail slot 0 of `chain_xdp` refers to program": replace(S, tail_slots=(replace(S.tail_slots[0], program="p"),)),
    "map `chain_xdp` has no slot 1": replace(S, tail_slots=(replace(S.tail_slots[0], index=1),)),
    "map `br0__tx` has no slot -1": replace(S, device_slots=(replace(S.device_slots[0], index=-1),)),
    "map `br0__fdb` (BPF_MAP_TYPE_HASH, state) has slots": replace(
        S, device_slots=(replace(S.device_slots[0], map="br0__fdb"),)
    ),
    "device slot 0 of `br0__tx` refers to device `x`": replace(
        S, device_slots=(replace(S.device_slots[0], device="x"),)
    ),
    "device slot `br0__tx[1]` is there 2 times": replace(S, device_slots=S.device_slots[1:] * 2),
    "host symbol `host_hz` is hz, and has a device": replace(
        S, host_symbols=(replace(S.host_symbols[0], device="wan"),)
    ),
    "host symbol `host_mac_wan` is mac, and lacks a device": replace(
        S, host_symbols=(replace(S.host_symbols[1], device=None),)
    ),
    "attach point `wan` refers to program `p`": replace(S, attach=(replace(S.attach[0], program="p"),)),
    "interface `wan` (tc) has a program of hook xdp": replace(
        S, interfaces=(replace(S.interfaces[0], mode=Mode.TC), S.interfaces[1])
    ),
    "interface `wan` has `../../x`, which cannot be a device": replace(
        S, interfaces=(replace(S.interfaces[0], device="../../x"), S.interfaces[1])
    ),
    "interface `lan` has `a/b`, which cannot be a network namespace": replace(
        S, interfaces=(S.interfaces[0], replace(S.interfaces[1], netns="a/b"))
    ),
    "internal link `br0.up-xdp` refers to interface `no`": replace(
        S, internal_links=(replace(S.internal_links[0], interface="no"),)
    ),
    "internal link `br0.up-xdp` (tc) has a program of": replace(
        S, internal_links=(replace(S.internal_links[0], hook=records.Hook.TC),)
    ),
    "service `br0` refers to map `gone`": replace(S, services=(S.services[0], replace(S.services[1], counters="gone"))),
    "map `br0__counters` cannot be the counters of service `br0`": with_map(S, counters("br0", 3)),
    "service `br0` has a drop reason that is not counted": replace(
        S, services=(S.services[0], replace(S.services[1], drop_reasons=((64, "late"),)))
    ),
    "edge `br0.lan` leads to `interface x`, which is not there": replace(
        S, edges=(replace(S.edges[1], target="interface x"),)
    ),
    "`../edge` cannot be a name": replace(S, chain="../edge"),
    "`a-b` cannot be a name": with_map(S, links("a-b", "BPF_MAP_TYPE_DEVMAP", 1, "br0")),
    "object file `../x.o` is not `objects/SHA256.o` of its own digest": replace(
        S, objects=(replace(S.objects[0], file="../x.o"), *S.objects[1:])
    ),
    "object file `objects/": replace(S, objects=(replace(S.objects[0], sha256="0" * 64), *S.objects[1:])),
    "the value of `value_guard__limit` in program `guard__outside__xdp` does not fit 64 bits": with_values(1 << 64),
    "the value of `value_guard__limit` in program `guard__outside__xdp` does not fit 64 bits: -1": with_values(-1),
    "program `guard__outside__xdp`: value of `value_guard__limit` is there 2 times": with_values(1, 1),
    "`host_hz` is a fact of the host, and program `guard__outside__xdp` has a value for it": with_values(
        1, symbol="host_hz"
    ),
    "`value_guard__limit` has two values in `objects/": replace(
        S,
        programs=(
            *S.programs,
            replace(S.programs[0], name="other__xdp", function="other", values=(records.ValueRecord(LIMIT, 11),)),
        ),
    ),
    "`a b` cannot be a name": with_values(1, symbol="a b"),
    "device `eth0` is there 2 times": replace(
        S, interfaces=(*S.interfaces, replace(S.interfaces[0], name="third")), attach=S.attach
    ),
}


def test_the_sample_is_whole() -> None:
    assert list(broken_references(sample())) == []


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_contradictions(message: str) -> None:
    manifest = CONTRADICTIONS[message]
    assert any(found.startswith(message) for found in broken_references(manifest)), list(broken_references(manifest))
    with pytest.raises(LoadFailed) as caught:
        from_json(to_json(manifest))
    assert {found.code for found in caught.value.diagnostics} == {"M105"}


def test_prog_array_of_two_hooks() -> None:
    tc = replace(S.programs[1], name="guard__inside__tc", hook=records.Hook.TC)
    slots = (*S.tail_slots, records.TailSlotRecord("chain_xdp", 1, "guard__inside__tc", ""))
    array = links("chain_xdp", "BPF_MAP_TYPE_PROG_ARRAY", 2, None, value_size=4)
    found = broken_references(with_map(replace(S, programs=(*S.programs, tc), tail_slots=slots), array))
    assert "prog array `chain_xdp` holds programs of two hooks" in list(found)


# --- mutations ------------------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 65, 2**31, 2**32, 2**80, 1.5, "", "x", "00", "../..", "\0", "host", "ü" * 300),
    *([], [[]], {}, {"a": 1}, ["x"], "BPF_MAP_TYPE_DEVMAP", "state", "program x", "interface lan"),
)


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    found: list[tuple[Any, Any]] = []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        found.append((data, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


def mutate(random: random.Random, data: Any) -> None:
    container, key = random.choice(places(data))
    match random.randrange(4):
        case 0:
            del container[key]
        case 1:
            other, other_key = random.choice(places(data))
            container[key] = copy.deepcopy(other[other_key])
        case 2 if isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        case _:
            container[key] = random.choice(VALUES)


def accepted(read: Callable[[], Manifest]) -> Manifest | None:
    """The manifest, or None where it was refused with one of its own codes; anything else is an error."""
    try:
        return read()
    except LoadFailed as failure:
        unknown = {found.code for found in failure.diagnostics} - {"M102", "M103", "M104", "M105"}
    assert not unknown
    return None


def test_mutated_manifests_are_refused_or_whole() -> None:
    source = random.Random(20)
    original = json.loads(to_json(sample()))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    whole = 0
    for _ in range(MUTATIONS):
        data = copy.deepcopy(original)
        for _ in range(source.randint(1, 3)):
            mutate(source, data)
        manifest = accepted(functools.partial(from_data, data))
        if manifest:
            whole += 1
            assert json.loads(to_json(manifest)) == data
            assert list(broken_references(manifest)) == []
            assert list(validator.iter_errors(data)) == [], "the schema refuses what the records take"
    assert 0 < whole < MUTATIONS // 4


def test_mutated_text_is_refused_or_whole() -> None:
    source = random.Random(21)
    original = to_json(sample()).encode()
    for _ in range(MUTATIONS):
        text = bytearray(original)
        for _ in range(source.randint(1, 4)):
            text[source.randrange(len(text))] = source.randrange(256)
        cut = source.randrange(len(text)) if source.random() < 0.2 else len(text)
        accepted(functools.partial(from_json, bytes(text[:cut])))


def test_a_changed_object_is_never_taken(tmp_path: Path) -> None:
    """Whatever is changed in it, and wherever: it is not the one that was compiled, and nobody reads any further."""
    chain = saved(tmp_path)
    (name, content), *_ = chain.objects.items()
    source = random.Random(22)
    for _ in range(200):
        changed = bytearray(content)
        at = source.randrange(len(changed))
        changed[at] ^= source.randrange(1, 256)
        del changed[source.choice((len(changed), source.randrange(len(changed) + 1))) :]
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(LoadFailed) as caught:
            load(tmp_path)
        assert [found.code for found in caught.value.diagnostics] == ["M106"]


# --- a compiled chain on disk ---------------------------------------------------------------------------------------


def saved(folder: Path) -> CompiledChain:
    chain = sample_chain()
    save(chain, folder)
    return chain


def load_failure(folder: Path) -> tuple[str, str]:
    with pytest.raises(LoadFailed) as caught:
        load(folder)
    return caught.value.diagnostics[0].code, caught.value.diagnostics[0].message


def test_save_and_load(tmp_path: Path) -> None:
    chain = saved(tmp_path / "new" / "folder")
    assert load(tmp_path / "new" / "folder") == chain
    assert load(tmp_path / "new" / "folder" / "manifest.json") == chain


def test_saving_again_removes_what_is_no_longer_listed(tmp_path: Path) -> None:
    saved(tmp_path)
    content = b"another object"
    manifest = with_program(sample(), program("br0__lan__xdp", content))
    objects = {**sample_chain().objects, object_file(content): content}
    smaller = CompiledChain(manifest, {record.file: objects[record.file] for record in manifest.objects})
    save(smaller, tmp_path)
    assert load(tmp_path) == smaller
    assert len(list((tmp_path / "objects").iterdir())) == 3


def test_an_object_that_was_not_compiled(tmp_path: Path) -> None:
    chain = saved(tmp_path)
    file = next(iter(chain.objects))
    (tmp_path / file).write_bytes(b"something else")
    assert load_failure(tmp_path) == ("M106", f"object `{tmp_path / file}` is not the one that was compiled")
    save(chain, tmp_path)
    assert load(tmp_path) == chain


def test_files_that_are_missing(tmp_path: Path) -> None:
    missing = tmp_path / "manifest.json"
    assert load_failure(tmp_path) == ("M101", f"cannot read `{missing}`: No such file or directory")
    chain = saved(tmp_path)
    file = next(iter(chain.objects))
    (tmp_path / file).unlink()
    assert load_failure(tmp_path) == ("M101", f"cannot read `{tmp_path / file}`: No such file or directory")


def test_a_manifest_leads_to_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    chain = saved(tmp_path)
    record = chain.manifest.objects[0]
    text = to_json(chain.manifest).replace(f'"file": "{record.file}"', f'"file": "../{record.sha256}.o"')
    (tmp_path / "manifest.json").write_text(text)
    assert load_failure(tmp_path)[0] == "M104"


def test_a_manifest_that_was_edited(tmp_path: Path) -> None:
    """Also where what it says now is as good a manifest as before."""
    chain = saved(tmp_path)
    file = tmp_path / "manifest.json"
    whole = file.read_bytes()
    for edited in (whole.replace(b'"edge"', b'"fine"', 1), whole + b"\n", to_json(chain.manifest).encode()):
        assert edited != whole
        file.write_bytes(edited)
        assert load_failure(tmp_path) == ("M108", f"manifest `{file}` is not the one that was compiled")
    file.write_bytes(whole)
    assert load(tmp_path) == chain


def test_the_digest_of_a_manifest_is_said_and_is_in_the_schema(tmp_path: Path) -> None:
    saved(tmp_path)
    file = tmp_path / "manifest.json"
    whole = file.read_bytes()
    check_schema(json.loads(whole))
    lines = whole.splitlines(keepends=True)
    digest = hashlib.sha256(lines[0] + b"".join(lines[2:])).hexdigest()
    assert lines[1].decode() == f' "digest": "{digest}",\n'
    file.write_bytes(whole.replace(digest.encode(), b"0" * 64))
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path)
    assert caught.value.diagnostics[0].notes == (f"it says SHA-256 {'0' * 64} of itself, and has {digest}",)


STRANGER = 54321


def files_of(folder: Path, chain: CompiledChain) -> list[Path]:
    return [folder, folder / "manifest.json", folder / "objects", folder / next(iter(chain.objects))]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_can_write_is_not_read(number: int, mode: int, tmp_path: Path) -> None:
    chain = saved(tmp_path / "chain")
    place = files_of(tmp_path / "chain", chain)[number]
    before = stat.S_IMODE(place.stat().st_mode)
    place.chmod(before | mode)
    with pytest.raises(LoadFailed) as caught:
        load(tmp_path / "chain")
    assert caught.value.diagnostics == (
        Diagnostic(
            "M109",
            f"`{place}` is not trusted: others than its owner can write to it (mode {before | mode:04o})",
            notes=("what it says would be loaded into the kernel",),
            help=f"compile it again, or `chmod go-w {place}`",
        ),
    )
    place.chmod(before)
    assert load(tmp_path / "chain") == chain


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("number", range(4))
def test_what_a_stranger_wrote_is_not_read(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = saved(tmp_path / "chain")
    place = files_of(tmp_path / "chain", chain)[number]
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(place, STRANGER, -1)
    code, message = load_failure(tmp_path / "chain")
    wanted = f"`{place}` is not trusted: it belongs to user {STRANGER}, who is neither root nor the caller"
    assert (code, message) == ("M109", wanted)
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    assert load(tmp_path / "chain") == chain


def test_a_compiled_chain_is_written_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        chain = saved(tmp_path / "chain")
    finally:
        os.umask(before)
    assert load(tmp_path / "chain") == chain


def test_types_of_fields_are_those_that_can_be_read_back() -> None:
    """A new field of another type must be taught to manifest_json."""
    known: set[Any] = {str, int, bool, bytes, str | None, int | None, Mapping[str, Any] | None}
    for record in vars(records).values():
        if isinstance(record, type) and issubclass(record, Struct) and record is not Struct:
            for kind in typing.get_type_hints(record).values():
                plain = kind in known or (isinstance(kind, type) and issubclass(kind, str))
                assert plain or typing.get_origin(kind) is tuple or issubclass(kind, Struct), kind
