"""Jinja for C: a folder of `.j2` templates in, an environment out that renders them strictly.

Delimiters are `<{ value }>`, `<% statement %>` and `<# comment #>`: Jinja's own turn the valid C `{{0}}` into `0`. Only
integers and `CText` reach the output; everything else has to pass a typed filter, so that no unchecked string of a
chain file becomes code. (What a macro returns is a string: `<{ name(...) | c_text }>`.)
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .cache import cache_folder

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import jinja2

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


class CText(str):
    """Text that is C already: made by this program or checked by a filter."""

    __slots__ = ()


class Remark(str):
    """Text for comments, and for nothing else: what differs in remarks only is the same code (compiler/essence.py)."""

    __slots__ = ()


class Rendering(Struct, frozen=True):
    """C that is yet to be written: a template in a folder of them, and what goes into it."""

    folder: Path
    template: str
    words: Mapping[str, object]

    def text(self) -> str:
        return environment(self.folder).get_template(self.template).render(self.words)


def environment(folder: Traversable) -> jinja2.Environment:
    """An environment that loads its templates from `folder`; an undefined name or an unfiltered string is an error."""
    return _environment(Path(str(folder)))


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    import jinja2  # 60 ms that commands which compile nothing do not pay

    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: _source(folder, name)),
        bytecode_cache=_bytecode(folder),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<{",
        variable_end_string="}>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # the output is C, not HTML
        finalize=_checked,
    )
    env.filters.update(FILTERS)
    return env


def _bytecode(folder: Path) -> jinja2.BytecodeCache:
    """Parsed templates are kept: 50 ms less for every command that compiles. Jinja checks them against their source."""
    import jinja2

    kept = cache_folder() / "templates" / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    return jinja2.FileSystemBytecodeCache(str(kept))


def c_ident(name: str) -> CText:
    """A chain's name as a C identifier: `guard-2` becomes `guard_2`; ValueError for what is no name."""
    _refuse_remark(name)
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name: {name!r}")
    return CText(name.replace("-", "_"))


def c_field(path: str) -> CText:
    """A field of a struct, or of one within it, as a designator spells it: `rate.interval`."""
    _refuse_remark(path)
    return CText(".".join(map(c_ident, path.split("."))))


def c_text(text: str) -> CText:
    """Vouches that `text` is C."""
    _refuse_remark(text)
    return CText(text)


def comment(text: str) -> CText:
    """Text as the inside of a C comment, which it can neither end nor continue over a line."""
    line = " ".join(text.split()).replace("\\", "/")  # at its end it would join the next line
    return CText(line.replace("*/", "* /").replace("/*", "/ *"))


def be32(address: ipaddress.IPv4Address) -> CText:
    """An IPv4 address as it lies in a packet: `bpf_htonl(0xc6336401)`."""
    return CText(f"bpf_htonl({int(address):#010x})")


def loaded(symbol: str) -> CText:
    """The number that the loader gives to a symbol (types.h): `loaded(host_hz)`."""
    return CText(f"loaded({c_ident(symbol)})")


def mac(address: str) -> CText:
    """A MAC address as `mac_u64()` (packet.h) reads it: first byte on the wire lowest."""
    _refuse_remark(address)
    if not _MAC.fullmatch(address):
        raise ValueError(f"not a MAC address: {address!r}")
    return CText(f"{int.from_bytes(bytes.fromhex(address.replace(':', '')), 'little'):#x}ULL")


def hex32(number: int) -> CText:
    """An unsigned 32-bit number, all eight digits."""
    return CText(f"{_unsigned(number, 32):#010x}U")


def hex64(number: int) -> CText:
    """An unsigned 64-bit number, all sixteen digits."""
    return CText(f"{_unsigned(number, 64):#018x}ULL")


FILTERS: dict[str, Callable[..., CText]] = {
    "be32": be32,
    "c_field": c_field,
    "c_ident": c_ident,
    "c_text": c_text,
    "comment": comment,
    "hex32": hex32,
    "hex64": hex64,
    "loaded": loaded,
    "mac": mac,
}


def _refuse_remark(text: str) -> None:
    if isinstance(text, Remark):
        raise TypeError(f"{text!r} is for comments, and reaches C")


def _unsigned(number: int, bits: int) -> int:
    if not 0 <= number < 1 << bits:
        raise ValueError(f"{number} is no unsigned {bits}-bit number")
    return number


def _checked(value: Any) -> Any:
    if isinstance(value, CText) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    import jinja2

    if isinstance(value, jinja2.Undefined):
        return value  # which raises where it is written, with its name
    raise TypeError(f"{value!r} reaches C without a typed filter")


def _source(folder: Traversable, name: str) -> str | None:
    file = folder / name
    return file.read_text(encoding="utf-8") if file.is_file() else None
