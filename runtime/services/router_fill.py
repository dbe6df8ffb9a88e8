"""What is in a router's tables before the first packet looks for its way there; with no daemon it stays so."""

from __future__ import annotations

from collections.abc import Iterable

from ..filling import Unused
from ..routing.tables import open_tables, routes_netns
from ..rtnetlink import Interrupted, Path, Prefix


def fill(unused: Unused) -> None:
    """Writes the connected routes, those of the chain file, and those that the kernel has now where they are followed.

    Raises OSError where the kernel's cannot be read.
    """
    followed = open_tables(unused.config, unused.open_map, unused.netns, _nobody_reads)
    for _ in followed.load(_kernel_routes(unused)):
        pass


def _nobody_reads() -> None:
    """There is no lookup to wait for."""


def _kernel_routes(unused: Unused) -> Iterable[tuple[Prefix, Path]]:
    table = unused.config["kernel_routes"]
    if table is None:
        return ()
    from ..kernel_routes import Follower  # not where all routes are the chain file's

    follower = Follower(routes_netns(unused.config, unused.netns), lambda _changed: None, table["table"])
    try:
        for _ in follower.resync():
            pass
    except Interrupted as error:
        raise TimeoutError("the routes of the kernel do not hold still") from error
    finally:
        follower.close()
    return follower.routes.items()
