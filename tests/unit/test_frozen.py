"""Frozen classes with slots do what those of the standard library do."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import field
from types import ModuleType
from typing import Any, ClassVar

import pytest

import compiler
import runtime
import schemas
from schemas import frozen

Decorator = Callable[[type], type]


def classes(decorate: Decorator) -> dict[str, Any]:
    """Classes of all sorts that there are, with a decorator."""

    class Plain:
        """A text of its own."""

        a: int
        b: str = "x"
        c: tuple[int, ...] = ()

    class Undocumented:
        a: int

    class Empty:
        pass

    class Factory:
        a: list[int] = field(default_factory=list)
        b: int = 0
        kind: ClassVar[str] = "no field"

    class Uncompared:
        a: int
        b: int = field(default=1, compare=False)
        c: int = field(default=2, repr=False)

    class Checked:
        a: int

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError(self.a)
            object.__setattr__(self, "a", self.a + 1)

    class Unasked:
        a: int = 1
        b: list[int] = field(default_factory=list, init=False)
        c: int = field(default=3, init=False)
        d: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "d", self.a + self.c)

    class Own:
        a: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

        def __str__(self) -> str:
            return f"a is {self.a}"

        @property
        def twice(self) -> int:
            return 2 * self.a

    class OwnHash:
        a: int

        def __hash__(self) -> int:
            return 7

    made = [Plain, Undocumented, Empty, Factory, Uncompared, Checked, Unasked, Own, OwnHash]
    return {cls.__name__: decorate(cls) for cls in made}


OURS = classes(frozen.dataclass(frozen=True, slots=True))
THEIRS = classes(dataclasses.dataclass(frozen=True, slots=True))
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Plain", (1,), {}),
    ("Plain", (1, "y"), {"c": (2,)}),
    ("Plain", (), {"b": "z", "a": 3}),
    ("Undocumented", (4,), {}),
    ("Empty", (), {}),
    ("Factory", (), {}),
    ("Factory", ([1],), {"b": 2}),
    ("Uncompared", (1,), {}),
    ("Uncompared", (1, 5), {}),
    ("Uncompared", (1, 5, 6), {}),
    ("Checked", (1,), {}),
    ("Unasked", (), {}),
    ("Unasked", (2,), {}),
    ("Own", (1,), {}),
    ("OwnHash", (1,), {}),
]


def outcome(function: Callable[[], object]) -> object:
    """What comes of a call: its result, or the error."""
    try:
        return function()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(("name", "given", "named"), CALLS)
def test_an_object_is_as_the_standard_library_makes_it(name: str, given: Any, named: Any) -> None:
    ours, theirs = OURS[name](*given, **named), THEIRS[name](*given, **named)
    looks: list[Callable[[Any], object]] = [
        repr,
        str,
        dataclasses.asdict,
        lambda one: outcome(lambda: hash(one)),
        lambda one: [(f.name, f.type, f.default, f.compare, f.repr) for f in dataclasses.fields(one)],
        lambda one: type(one).__match_args__,
        lambda one: type(one).__slots__,
        lambda one: type(one).__name__,
        lambda one: outcome(lambda: one.__dict__),
        lambda one: hasattr(one, "a") and outcome(lambda: setattr(one, "a", 1)),
        lambda one: hasattr(one, "a") and outcome(lambda: delattr(one, "a")),
        lambda one: one == copy.copy(one) == copy.deepcopy(one),
        lambda one: repr(copy.deepcopy(one)),
        lambda one: one != 1 and (one == 1, one == object()),
        lambda one: repr(outcome(lambda: dataclasses.replace(one))),
    ]
    for look in looks:
        assert look(ours) == look(theirs)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ours.unknown = 1


@pytest.mark.parametrize(
    ("name", "given", "named"),
    [
        ("Plain", (), {}),
        ("Plain", (1, 2, 3, 4), {}),
        ("Plain", (1,), {"d": 2}),
        ("Plain", (1,), {"a": 2}),
        ("Empty", (1,), {}),
    ],
)
def test_what_cannot_be_made_says_the_same(name: str, given: Any, named: Any) -> None:
    found = outcome(lambda: OURS[name](*given, **named))
    assert found == outcome(lambda: THEIRS[name](*given, **named))
    assert isinstance(found, tuple)


def test_two_objects_compare_as_the_standard_librarys_do() -> None:
    for one, other in ((one, other) for one in CALLS for other in CALLS):
        ours, ours_too = (OURS[name](*given, **named) for name, given, named in (one, other))
        theirs, theirs_too = (THEIRS[name](*given, **named) for name, given, named in (one, other))
        assert (ours == ours_too) == (theirs == theirs_too), (one, other)


def test_a_default_is_made_for_each_object() -> None:
    assert OURS["Factory"]().a is not OURS["Factory"]().a


def test_what_a_check_refuses_is_not_made() -> None:
    assert outcome(lambda: OURS["Checked"](-1)) == (ValueError, "-1")


def test_pickles_come_back() -> None:
    from schemas.diagnostic import Diagnostic, Span

    found = Diagnostic("C1", "message", Span("file", 1, 2, 3, 4), notes=("note",))
    assert pickle.loads(pickle.dumps(found)) == found


def test_other_wishes_are_the_standard_librarys() -> None:
    class Ordered:
        a: int

    made: Any = frozen.dataclass(frozen=True, slots=True, order=True)(Ordered)
    assert made(1) < made(2)
    loose: Any = frozen.dataclass(slots=True)(classes(lambda cls: cls)["Undocumented"])
    changed = loose(1)
    changed.a = 2
    assert changed.a == 2


def test_fields_that_it_does_not_know_are_refused() -> None:
    class Named:
        a: int = field(kw_only=True)

    with pytest.raises(TypeError, match="fields with `kw_only`"):
        frozen.dataclass(frozen=True, slots=True)(Named)


def modules() -> Iterator[ModuleType]:
    for package in (compiler, runtime, schemas):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def test_no_class_here_needs_what_is_not_known() -> None:
    """Inheritance and `InitVar`."""
    found = {
        cls
        for module in modules()
        for cls in vars(module).values()
        if isinstance(cls, type)
        and dataclasses.is_dataclass(cls)
        and getattr(cls, "__setattr__", None) is frozen._setattr
    }
    assert len(found) > 100
    for cls in found:
        assert not any(dataclasses.is_dataclass(base) for base in cls.__mro__[1:]), cls
        pseudo = set(cls.__dataclass_fields__) - {each.name for each in dataclasses.fields(cls)}
        assert all("ClassVar" in str(cls.__dataclass_fields__[name].type) for name in pseudo), cls
