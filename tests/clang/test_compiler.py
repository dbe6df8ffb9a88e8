"""Whole chains through clang: everything compiles at every hook, folds, and comes out the same wherever it is made."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection
from msgspec.structs import replace

from compiler import clang as clang_module
from compiler.build import Compiled, build, lowered
from compiler.clang import compile_units, find_clang
from compiler.emit import emit
from compiler.ir import Inlined
from schemas.chains import examples
from schemas.diagnostic import CompileFailed
from schemas.manifest import Mode

CODE_RELOCATIONS = (".relxdp", ".reltc", ".rel.text")

BRIDGE = """\
chain: plain
mode: {mode}
interfaces: {{one: {{device: eth0}}, two: {{device: eth1}}, three: {{device: eth2}}}}
services:
  br0: {{kind: bridge, {fdb}ports: {{p1: {{}}, p2: {{}}, p3: {{}}}}}}
links: [[one, br0.p1], [two, br0.p2], [three, br0.p3]]
"""


def compiled(folder: Path, text: str, name: str = "plain.yaml") -> Compiled:
    file = folder / name
    file.write_text(text)
    return build(file)


def relocated_symbols(elf: bytes) -> set[str]:
    """Names of everything but code that the object's code refers to."""
    parsed = ELFFile(io.BytesIO(elf))
    names = set()
    for section in parsed.iter_sections():
        if isinstance(section, RelocationSection) and section.name.startswith(CODE_RELOCATIONS):
            symbols = parsed.get_section(section["sh_link"])
            assert isinstance(symbols, SymbolTableSection)
            for relocation in section.iter_relocations():
                symbol = symbols.get_symbol(relocation["r_info_sym"])
                home = symbol["st_shndx"]
                if home == "SHN_UNDEF" or not parsed.get_section(home)["sh_flags"] & SH_FLAGS.SHF_EXECINSTR:
                    names.add(symbol.name or parsed.get_section(home).name)
    return names


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("chain", sorted(examples()))
def test_configuration_is_folded(chain: str, mode: Mode, tmp_path: Path) -> None:
    """A program refers to its maps and to what the loader fills in; nothing of its configuration is left in memory."""
    text = examples()[chain].read_text()
    for other in Mode:
        text = text.replace(f"mode: {other}", f"mode: {mode}")
    made = compiled(tmp_path, text, f"{chain}.yaml")
    host_facts = {symbol.symbol for symbol in made.manifest.host_symbols}
    for record, program in zip(made.manifest.programs, made.programs, strict=True):
        values = {value.symbol for value in record.values}
        found = relocated_symbols(program.elf)
        assert found <= set(program.unit.program.maps) | host_facts | values, program.unit.name
        assert values <= found, program.unit.name


def test_static_entries_that_are_not_there_cost_nothing(tmp_path: Path) -> None:
    without, with_static = (
        compiled(tmp_path, BRIDGE.format(mode="native", fdb=fdb)).programs[0]
        for fdb in ("", "fdb: {static: [{mac: 52:54:00:12:34:56, port: p2}]}, ")
    )
    assert "static" not in without.unit.code.split("br0__p1 =")[1].split("};")[0]
    assert len(without.elf) < len(with_static.elf)


def test_objects_and_manifest_are_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other folders, other caches, other times: the same bytes."""
    digests = []
    for place in ("here", "there"):
        monkeypatch.setenv("BPFCHAIN_CACHE", str(tmp_path / f"cache-{place}"))
        folder = tmp_path / place
        folder.mkdir()
        (folder / "edge.yaml").write_text(examples()["guarded-bridge"].read_text())
        made = build(folder / "edge.yaml", folder / "out")
        assert not any(program.cached for program in made.programs)
        files = sorted(path for path in (folder / "out").rglob("*") if path.is_file())
        digests.append({str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})
    assert digests[0] == digests[1]
    assert len(digests[0]) > 4


def test_moved_lines_change_no_object(tmp_path: Path) -> None:
    text = BRIDGE.format(mode="native", fdb="")
    before, after = compiled(tmp_path, text), compiled(tmp_path, "# a comment\n\n" + text)
    assert [p.elf for p in after.programs] == [p.elf for p in before.programs]
    assert all(program.cached for program in after.programs)
    assert after.manifest.programs[0].span == "plain.yaml:7"


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("BPFCHAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_known_by_its_essence_is_as_if_it_had_been_written(own_cache: Path, tmp_path: Path) -> None:
    text = examples()["guarded-bridge"].read_text()
    compiled(tmp_path, text)
    known = compiled(tmp_path, f"# moved\n\n{text}")
    shutil.rmtree(own_cache / "units")
    written = compiled(tmp_path, f"# moved\n\n{text}")
    assert known.manifest == written.manifest
    assert known.chain.objects == written.chain.objects
    assert [each.marks for each in known.programs] == [each.marks for each in written.programs]


@pytest.mark.parametrize("damage", [b"", b"{", b'["no such object", []]', b"[7, []]", b"[]", b'["", [[1]]]', b"\xff"])
def test_what_is_known_and_not_whole_is_found_out_again(damage: bytes, own_cache: Path, tmp_path: Path) -> None:
    text = BRIDGE.format(mode="native", fdb="")
    before = compiled(tmp_path, text)
    notes = sorted((own_cache / "units").iterdir())
    assert len(notes) == len(before.programs)
    whole = [note.read_bytes() for note in notes]
    for note in notes:
        note.write_bytes(damage)
    after = compiled(tmp_path, text)
    assert after.chain == before.chain
    assert [note.read_bytes() for note in notes] == whole


def test_an_object_that_is_gone_from_the_cache_is_made_again(own_cache: Path, tmp_path: Path) -> None:
    text = BRIDGE.format(mode="native", fdb="")
    before = compiled(tmp_path, text)
    shutil.rmtree(own_cache / "objects")
    after = compiled(tmp_path, text)
    assert after.chain == before.chain
    assert not any(each.cached for each in after.programs)


def test_nothing_is_rendered_for_objects_that_are_there(own_cache: Path, tmp_path: Path) -> None:
    for aging in (60, 61):
        file = tmp_path / "plain.yaml"
        file.write_text(BRIDGE.format(mode="native", fdb=f"fdb: {{aging: {aging}s}}, "))
        asked = f"import sys, bpfchain; bpfchain.compile({str(file)!r}); print('jinja2' in sys.modules)"
        ran = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
        assert ran.stdout.strip() == str(aging == 60)


def test_one_changed_value_recompiles_what_holds_it(tmp_path: Path) -> None:
    text = examples()["guarded-bridge"].read_text()
    before = compiled(tmp_path, text, "edge.yaml")
    after = compiled(tmp_path, text.replace("udp/11211", "udp/11212"), "edge.yaml")
    changed = {a.unit.program.name for a, b in zip(after.programs, before.programs, strict=True) if a.elf != b.elf}
    assert changed == {"guard__outside__xdp"}


def test_unfit_clang_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileFailed, match="K101: `false` is not usable as clang: it does not compile BPF"):
        find_clang("false")
    monkeypatch.setenv("BPFCHAIN_CLANG", "no-such-compiler")
    with pytest.raises(CompileFailed, match="there is no such command"):
        find_clang()


def test_no_clang_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clang_module, "SYSTEM_NAMES", ())
    monkeypatch.setattr(clang_module, "_bundled", lambda: None)
    monkeypatch.delenv("BPFCHAIN_CLANG", raising=False)
    with pytest.raises(CompileFailed) as refused:
        find_clang()
    assert refused.value.diagnostics[0].help == "pip install 'bpfchain[clang]'"


def test_refused_c_is_our_defect_at_the_line_of_yaml(tmp_path: Path) -> None:
    file = tmp_path / "plain.yaml"
    file.write_text(BRIDGE.format(mode="native", fdb="fdb: {aging: 60s}, "))
    ir = lowered(file)
    program = ir.programs[0]
    constants = tuple(
        replace(c, home=Inlined("aging_s", "no_such_name")) if c.path == "br0.fdb.aging" else c
        for c in program.lowered.constants
    )
    unit = emit(ir, replace(program, lowered=replace(program.lowered, constants=constants)), "VERSION")
    with pytest.raises(CompileFailed) as refused:
        compile_units([unit], find_clang())
    (diagnostic,) = refused.value.diagnostics
    assert diagnostic.code == "K103"
    assert diagnostic.message == "clang refused the C of service `br0` (kind `bridge`), port `p1`"
    assert diagnostic.span is not None
    assert (diagnostic.span.line, diagnostic.span.column) == (5, 36)
    assert "use of undeclared identifier 'no_such_name'" in diagnostic.notes[0]
    assert diagnostic.notes[1] == "a defect of bpfchain, not of the chain file"


def test_compiling_removes_only_what_it_made(tmp_path: Path) -> None:
    """A folder of somebody's own that has `src/` and `objects/` keeps its files; units of programs that went, go."""
    (tmp_path / "src" / "folder").mkdir(parents=True)
    (tmp_path / "objects").mkdir()
    theirs = [tmp_path / "src" / "main.c", tmp_path / "objects" / "main.o"]
    for file in theirs:
        file.write_text("theirs")
    chain = tmp_path / "edge.yaml"
    chain.write_text(BRIDGE.format(mode="native", fdb=""))
    build(chain, tmp_path)
    assert (tmp_path / "src" / "br0__p3__xdp.c").exists()
    chain.write_text(BRIDGE.format(mode="tc", fdb=""))
    build(chain, tmp_path)
    assert not (tmp_path / "src" / "br0__p3__xdp.c").exists()
    assert (tmp_path / "src" / "br0__p3__tc.c").exists()
    assert [file.read_text() for file in theirs] == ["theirs", "theirs"]
