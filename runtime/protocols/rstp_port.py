"""What one bridge knows of itself and of each of its ports: parameters, variables, and what it asks to be done.

The nouns of the Rapid Spanning Tree Protocol (IEEE 802.1D-2004 clause 17); rstp.py has the verbs.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from .bpdu import NO_PRIORITY, NO_TIMES, Bpdu, PriorityVector, Times

MIGRATE_TIME = 3  # seconds (17.13.9)


class State(StrEnum):
    """What a port does with frames (17.5)."""

    DISCARDING = "discarding"
    LEARNING = "learning"
    FORWARDING = "forwarding"


class Role(StrEnum):
    """What a port is in the tree (17.7)."""

    DISABLED = "disabled"
    ROOT = "root"
    DESIGNATED = "designated"
    ALTERNATE = "alternate"
    BACKUP = "backup"


class Guard(StrEnum):
    """Why a port is kept from the tree although its link is up."""

    NONE = ""
    BPDU = "bpdu-guard"  # it received a BPDU: shut until its link has been down
    ROOT = "root-guard"  # it hears of a better root: discarding for as long as it does


class PortSettings(Struct, frozen=True):
    """Management parameters of a port (17.13, 17.14). `number` counts from 1; `priority` is a multiple of 16.

    `path_cost` and `point_to_point` are what `enable` takes unless it is told better. `bpdu_guard` shuts the port when
    a BPDU arrives, `root_guard` (802.1Q restrictedRole) keeps it from being the root port, `bpdu_filter` neither sends
    nor hears BPDUs.
    """

    number: int
    priority: int = 128
    path_cost: int = 20_000
    point_to_point: bool = True
    admin_edge: bool = False
    auto_edge: bool = True
    bpdu_guard: bool = False
    root_guard: bool = False
    bpdu_filter: bool = False


class BridgeSettings(Struct, frozen=True):
    """Management parameters of a bridge (17.14); times in seconds. `rapid` False speaks STP only (17.13.4)."""

    address: int
    priority: int = 32768
    hello_time: int = 2
    max_age: int = 20
    forward_delay: int = 15
    transmit_hold_count: int = 6
    rapid: bool = True

    @property
    def bridge_id(self) -> int:
        return self.priority << 48 | self.address

    @property
    def times(self) -> Times:
        return Times(0, self.max_age, self.hello_time, self.forward_delay)


class SetState(Struct, frozen=True):
    """The data plane has to treat frames of port `port` so from now on."""

    port: int
    state: State


class Flush(Struct, frozen=True):
    """What was learned on port `port` has to be forgotten."""

    port: int


class Send(Struct, frozen=True):
    """`bpdu` has to leave by port `port`."""

    port: int
    bpdu: Bpdu


Effect = SetState | Flush | Send


class Info(StrEnum):
    """Where a port's information comes from (infoIs, 17.19.10)."""

    DISABLED = "disabled"
    AGED = "aged"
    MINE = "mine"
    RECEIVED = "received"


class Change(StrEnum):
    """States of the topology change machine that last (17.31)."""

    INACTIVE = "inactive"
    LEARNING = "learning"
    ACTIVE = "active"


class Port(Struct):
    """Variables of one port (17.19) and its timers in seconds (17.17).

    `old_neighbour` is not the standard's: what was heard last on the link was STP. An old bridge that has lost its root
    is silent for Max Age, longer than a rapid one, and for three seconds `send_rstp` does not know yet (17.24).
    Nor is `speaker`, the address and port number of the bridge heard last since the link came up. While `others_while`
    runs, others have been heard too: the link has more than two ends, whatever its duplex says.
    """

    settings: PortSettings
    path_cost: int = 0
    point_to_point: bool = True
    enabled: bool = False
    guard: Guard = Guard.NONE
    role: Role = Role.DISABLED
    selected_role: Role = Role.DISABLED
    info_is: Info = Info.DISABLED
    change: Change = Change.INACTIVE
    message: Bpdu | None = None
    port_priority: PriorityVector = NO_PRIORITY
    port_times: Times = NO_TIMES
    designated_priority: PriorityVector = NO_PRIORITY
    designated_times: Times = NO_TIMES
    agree: bool = False
    agreed: bool = False
    disputed: bool = False
    forward: bool = False
    forwarding: bool = False
    learn: bool = False
    learning: bool = False
    new_info: bool = False
    old_neighbour: bool = False
    oper_edge: bool = False
    proposed: bool = False
    proposing: bool = False
    rcvd_rstp: bool = False
    rcvd_stp: bool = False
    rcvd_tc: bool = False
    rcvd_tc_ack: bool = False
    rcvd_tcn: bool = False
    re_root: bool = True
    reselect: bool = True
    selected: bool = False
    send_rstp: bool = True
    sensing: bool = False
    speaker: tuple[int, int] | None = None
    sync: bool = True
    synced: bool = False
    tc_ack: bool = False
    tc_prop: bool = False
    updt_info: bool = False
    tx_count: int = 0
    edge_delay_while: int = MIGRATE_TIME
    fd_while: int = 0
    hello_when: int = 0
    mdelay_while: int = MIGRATE_TIME
    others_while: int = 0
    rb_while: int = 0
    rcvd_info_while: int = 0
    rr_while: int = 0
    tc_while: int = 0

    @property
    def number(self) -> int:
        return self.settings.number

    @property
    def port_id(self) -> int:
        """Four bits of priority before twelve of number (9.2.7)."""
        return self.settings.priority << 8 | self.number

    @property
    def state(self) -> State:
        if self.forwarding:
            return State.FORWARDING
        return State.LEARNING if self.learning else State.DISCARDING

    @property
    def is_shared(self) -> bool:
        """Whether one neighbour cannot agree for all (not operPointToPointMAC, 6.4.3)."""
        return not self.point_to_point or self.others_while > 0

    @property
    def settled(self) -> bool:
        """Whether the port's role is that of its newest information (`selected && !updtInfo`)."""
        return self.selected and not self.updt_info

    @property
    def fwd_delay(self) -> int:
        return int(self.designated_times.forward_delay)

    @property
    def forward_delay(self) -> int:
        """17.20.5: towards a rapid neighbour a hello time will do, but not towards many."""
        rapid = self.send_rstp and not self.old_neighbour and not self.others_while
        return int(self.designated_times.hello_time) if rapid else self.fwd_delay

    @property
    def edge_delay(self) -> int:
        """17.20.4."""
        return int(self.designated_times.max_age) if self.is_shared else MIGRATE_TIME
