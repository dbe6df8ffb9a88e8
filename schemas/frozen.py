"""`@dataclass(frozen=True, slots=True)` as the standard library has it, made in a quarter of the time.

Commands import some hundred such classes and live for some tenths of a second. The standard library compiles half a
dozen functions for each class, which takes longer than all else that importing these modules does; here it is one,
`__init__`, and the others are shared. What a class can do is the same, and a test compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False, **others: Any) -> Callable[[type], type]:
        """The decorator; what is not frozen with slots, or has other wishes, the standard library makes."""
        if frozen and slots and not others:
            return _frozen
        return dataclasses.dataclass(frozen=frozen, slots=slots, **others)


def _frozen(cls: type) -> type:
    given = vars(cls)
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    fields = dataclasses.fields(made)
    if any(field.kw_only or field.hash is not None for field in fields):
        raise TypeError(f"{cls.__qualname__}: fields with `kw_only` or `hash` take the standard library's dataclass")
    made.__init__ = _init(made, fields)
    compared = _values(tuple(field.name for field in fields if field.compare))
    shared: dict[str, Any] = {"__repr__": _repr, "__eq__": _eq(compared), "__hash__": _hash(compared)}
    for name, method in shared.items():
        if given.get(name) is None:  # a class that defines `__eq__` alone has a `__hash__` of None
            setattr(made, name, method)
    made.__getstate__, made.__setstate__ = _getstate, _setstate
    made.__setattr__, made.__delattr__ = _setattr, _delattr
    frozen: type = made
    return frozen


def _init(cls: Any, fields: tuple[dataclasses.Field[Any], ...]) -> Callable[..., None]:
    """`__init__`, in which a default stands under its field's name with a prefix that no field has."""
    scope: dict[str, Any] = {"__set": object.__setattr__, "__none": dataclasses.MISSING}
    parameters, lines = ["self"], []
    for field in fields:
        name, default, value = field.name, f"__default_{field.name}", field.name
        if field.default is not dataclasses.MISSING:
            scope[default] = field.default
            parameter, unasked = f"{name}={default}", default
        elif field.default_factory is not dataclasses.MISSING:
            scope[default] = field.default_factory
            parameter, unasked = f"{name}=__none", f"{default}()"
            value = f"{default}() if {name} is __none else {name}"
        else:
            parameter, unasked = name, ""
        if field.init:
            parameters.append(parameter)
            lines.append(f" __set(self, {name!r}, {value})")
        elif unasked:
            lines.append(f" __set(self, {name!r}, {unasked})")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), scope)  # noqa: S102 - as dataclasses does
    made: Callable[..., None] = scope["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _values(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """What returns these attributes of an object as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda instance: tuple(getattr(instance, name) for name in names)


def _eq(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any, Any], bool]:
    def __eq__(self: Any, other: Any) -> bool:  # noqa: N807 - becomes a method
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    return __eq__


def _hash(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], int]:
    def __hash__(self: Any) -> int:  # noqa: N807 - becomes a method
        return hash(values(self))

    return __hash__


def _repr(self: Any) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _getstate(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _setstate(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, field.name, value)


def _setattr(_self: Any, name: str, _value: Any) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delattr(_self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
