"""A machine with three cables, as most tests of the kernel want it; a module that wants another has its own fixture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.live import Host, host
from tests.kernel.strangers import Foreign, strangers
from tests.rig.network import Network, network


@pytest.fixture
def net() -> Iterator[Network]:
    """Devices p1, p2 and p3 of the machine under test, and a peer at each."""
    with network("p1", "p2", "p3") as found:
        yield found


@pytest.fixture
def machine(net: Network, tmp_path: Path) -> Iterator[Host]:
    """A chain's life on it."""
    with host(net.dut, tmp_path) as found:
        yield found


@pytest.fixture
def foreign(net: Network) -> Iterator[Foreign]:
    """Programs of somebody else, for its devices."""
    with strangers(net) as found:
        yield found
