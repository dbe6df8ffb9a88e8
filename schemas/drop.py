"""Why packets are dropped: the numbers of compiler/bpf/drop.h with the names that people read."""

from __future__ import annotations

DROP_REASONS = {
    0: "truncated",
    1: "malformed",
    2: "extension-headers",
    3: "no-device",
    4: "missed-tail-call",
    5: "invalid-source",
    6: "same-port",
    7: "link-local",
    8: "no-receiver",
    9: "blocked-source",
    10: "blocked-destination",
    11: "blocked-protocol",
    12: "blocked-port",
    13: "rate",
    14: "bad-verdict",
    15: "slow-path-rate",
    16: "slow-path-full",
    24: "other-station",
    25: "checksum",
    26: "martian",
    27: "not-routed",
    28: "blackhole",
    29: "unknown-protocol",
    30: "not-asked",
    40: "vlan",
    41: "no-headroom",
    42: "port-state",
    43: "storm",
    44: "intruder",
    45: "station-limit",
}
"""Every reason of this tree. A service outside it counts its own from 48 on (DROP_SERVICE_FIRST)."""

GLUE_DROPS = (0, 3, 4, 8, 14, 41)
"""The reasons that generated code and the headers of `compiler/bpf` give by themselves, for every service."""

SLOW_PATH_DROPS = (15, 16)
"""Those that it gives beside them for a service with a slow path."""


def named(*numbers: int) -> tuple[tuple[int, str], ...]:
    """(number, name) pairs, as a service's record lists them."""
    return tuple((number, DROP_REASONS[number]) for number in numbers)
