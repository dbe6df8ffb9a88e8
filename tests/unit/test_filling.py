"""Which services are asked to fill their maps, and what there is to say where one cannot."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from runtime.filling import fill
from schemas.diagnostic import LoadFailed
from schemas.manifest import Manifest
from tests.unit.manifests import fdb, sample


def with_filled(kind: str) -> Manifest:
    """A bridge of another kind, with a map that is filled."""
    services = tuple(replace(each, kind=kind) if each.name == "br0" else each for each in sample().services)
    return replace(sample(), services=services, maps=(*sample().maps, replace(fdb(), name="br0__roots", filled="aa")))


@pytest.mark.parametrize("kind", ["ddos", "unheard-of"])
def test_nobody_fills_a_map(kind: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        fill(with_filled(kind), {}, set())
    (found,) = caught.value.diagnostics
    assert (found.code, found.message, found.help) == (
        "A152",
        f"nothing here fills the maps of service `br0`, of kind `{kind}`",
        "install the version of the service that the chain was compiled with",
    )


def test_maps_that_are_kept_are_not_filled() -> None:
    fill(with_filled("unheard-of"), {}, {"br0__roots"})
