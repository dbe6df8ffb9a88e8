"""BPDUs, link changes and seconds in, port states and BPDUs out: the Rapid Spanning Tree Protocol of one bridge.

These are the state machines of IEEE 802.1D-2004 clause 17, towards older bridges with the formats and timers of STP.
Pure: no clock, no socket. Variables have the standard's names; numbers in parentheses are its sections. Every call of
`Bridge` runs all machines until none can move, and returns what has to be done outside, in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from .bpdu import NO_PRIORITY, NO_TIMES, Bpdu, PriorityVector, Times, Type
from .bpdu import Role as WireRole
from .rstp_port import (
    MIGRATE_TIME,
    BridgeSettings,
    Change,
    Effect,
    Flush,
    Guard,
    Info,
    Port,
    PortSettings,
    Role,
    Send,
    SetState,
    State,
)

_ADDRESS_MASK = (1 << 48) - 1
_PORT_NUMBER_MASK = (1 << 12) - 1
_HIGHEST_COST = (1 << 32) - 1


class Bridge(Struct):
    """The spanning tree as one bridge sees it: call `enable`, `disable`, `receive`, and `tick` once a second.

    Ports start disabled. `root_priority` is the best priority vector known, `root_port` the number of the port that it
    came by, 0 where this bridge is the root. While `doubt_while` runs (seconds; not the standard's), somebody
    has fallen silent, and what others say of the root may be out of date: another root port opens by its timers alone.
    """

    settings: BridgeSettings
    ports: dict[int, Port] = field(default_factory=dict)
    root_priority: PriorityVector = NO_PRIORITY
    root_times: Times = NO_TIMES
    root_port: int = 0
    doubt_while: int = 0
    _effects: list[Effect] = field(default_factory=list)

    @classmethod
    def of(cls, settings: BridgeSettings, ports: Sequence[PortSettings]) -> Bridge:
        """A bridge with these ports, all of them disabled and discarding."""
        bridge = cls(settings, {port.number: Port(port, send_rstp=settings.rapid) for port in ports})
        for port in bridge.ports.values():
            port.path_cost, port.oper_edge = port.settings.path_cost, port.settings.admin_edge
        bridge._run()
        bridge._effects.clear()
        return bridge

    @property
    def is_root(self) -> bool:
        return self.root_port == 0

    def enable(
        self, number: int, *, path_cost: int | None = None, point_to_point: bool | None = None
    ) -> tuple[Effect, ...]:
        """The link of a port came up; cost and duplex are the settings' where they are not given."""
        port = self.ports[number]
        port.path_cost = port.settings.path_cost if path_cost is None else path_cost
        port.point_to_point = port.settings.point_to_point if point_to_point is None else point_to_point
        port.enabled, port.guard = True, Guard.NONE
        return self._run()

    def disable(self, number: int) -> tuple[Effect, ...]:
        """The link of a port went down; what had shut it is forgotten."""
        port = self.ports[number]
        port.enabled, port.guard = False, Guard.NONE
        return self._run()

    def shut(self, number: int) -> tuple[Effect, ...]:
        """A port with `bpdu_guard` has received a BPDU: it is disabled until its link has been down."""
        port = self.ports[number]
        port.enabled, port.guard = False, Guard.BPDU
        return self._run()

    def receive(self, number: int, bpdu: Bpdu) -> tuple[Effect, ...]:
        """A BPDU arrived on a port. A port with `bpdu_guard` is shut by it."""
        port = self.ports[number]
        if not port.enabled or port.settings.bpdu_filter:
            return ()
        if port.settings.bpdu_guard:
            return self.shut(number)
        self._note_version(port, bpdu)
        _note_speaker(port, bpdu)
        port.oper_edge = False
        port.message = bpdu
        port.edge_delay_while = MIGRATE_TIME
        return self._run()

    def tick(self) -> tuple[Effect, ...]:
        """A second has passed (port timers machine, 17.22)."""
        self.doubt_while = max(0, self.doubt_while - 1)
        for port in self.ports.values():
            for timer in _TIMERS:
                setattr(port, timer, max(0, getattr(port, timer) - 1))
        return self._run()

    def check_migration(self, number: int) -> tuple[Effect, ...]:
        """Tries anew whether a port's neighbour speaks RSTP (mcheck, 17.19.13)."""
        self._check_rstp(self.ports[number])
        return self._run()

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(self) -> tuple[Effect, ...]:
        """Every machine, until none of them can move."""
        while any(self._step(port) for port in self.ports.values()) or self._select_roles():
            pass
        for port in self.ports.values():
            self._transmit(port)
        effects = tuple(self._effects)
        self._effects.clear()
        return effects

    def _step(self, port: Port) -> bool:
        machines = (
            self._migrate,
            self._detect_edge,
            self._update_information,
            self._change_role,
            self._change_state,
            self._change_topology,
        )
        return any(machine(port) for machine in machines)

    # --- port protocol migration and bridge detection (17.24, 17.25) ------------------------------------------------

    def _note_version(self, port: Port, bpdu: Bpdu) -> None:
        """updtBPDUVersion (17.21.22)."""
        port.old_neighbour = bpdu.type is not Type.RST
        if bpdu.type is Type.RST:
            port.rcvd_rstp = True
        else:
            port.rcvd_stp = True

    def _check_rstp(self, port: Port) -> None:
        port.send_rstp = self.settings.rapid
        port.mdelay_while, port.sensing = MIGRATE_TIME, False

    def _migrate(self, port: Port) -> bool:
        if not port.enabled:
            if port.mdelay_while != MIGRATE_TIME or port.sensing:
                self._check_rstp(port)
                return True
            return False
        if not port.sensing:
            if port.mdelay_while == 0:
                port.sensing, port.rcvd_rstp, port.rcvd_stp = True, False, False
                return True
            return False
        if self.settings.rapid and not port.send_rstp and port.rcvd_rstp:
            self._check_rstp(port)
            return True
        if port.send_rstp and port.rcvd_stp:
            port.send_rstp, port.sensing, port.mdelay_while = False, False, MIGRATE_TIME
            return True
        return False

    def _detect_edge(self, port: Port) -> bool:
        before = port.oper_edge
        if not port.enabled:
            port.edge_delay_while = MIGRATE_TIME
            port.oper_edge, port.old_neighbour = port.settings.admin_edge, False
        elif port.edge_delay_while == 0 and port.proposing and self._may_be_edge(port):
            port.oper_edge = True
        return port.oper_edge != before

    @staticmethod
    def _may_be_edge(port: Port) -> bool:
        return port.settings.auto_edge and port.send_rstp and not port.old_neighbour and not port.others_while

    # --- port information (17.27) -----------------------------------------------------------------------------------

    def _update_information(self, port: Port) -> bool:
        if not port.enabled:
            return self._disable_information(port)
        if port.info_is is Info.DISABLED or self._has_aged(port):
            if port.info_is is Info.RECEIVED:
                self.doubt_while = round(self.root_times.max_age)
            port.info_is = Info.AGED
            port.reselect, port.selected = True, False
            return True
        if port.selected and port.updt_info:
            self._take_own(port)
            return True
        if port.message and not port.updt_info and port.info_is is not Info.AGED:
            message, port.message = port.message, None
            self._take_message(port, message)
            return True
        return False

    def _disable_information(self, port: Port) -> bool:
        port.message = None
        if port.info_is is Info.DISABLED:
            return False
        port.proposing = port.proposed = port.agree = port.agreed = False
        port.rcvd_info_while = 0
        port.speaker, port.others_while = None, 0
        port.info_is = Info.DISABLED
        port.reselect, port.selected = True, False
        return True

    @staticmethod
    def _has_aged(port: Port) -> bool:
        received = port.info_is is Info.RECEIVED
        return received and port.rcvd_info_while == 0 and not port.updt_info and port.message is None

    def _take_own(self, port: Port) -> None:
        """UPDATE: this bridge's own information is the best on the port's LAN."""
        same_or_better = port.info_is is Info.MINE and port.designated_priority <= port.port_priority
        port.proposing = port.proposed = False
        port.agreed = port.agreed and same_or_better
        port.synced = port.synced and port.agreed
        port.port_priority, port.port_times = port.designated_priority, port.designated_times
        port.updt_info = False
        port.info_is = Info.MINE
        port.new_info = True

    def _take_message(self, port: Port, bpdu: Bpdu) -> None:
        """RECEIVE: what a message is to the port (rcvInfo, 17.21.8) decides what it does there."""
        if bpdu.type is Type.TCN:
            port.rcvd_tcn = True
        elif self._is_own(port, bpdu):
            port.disputed = True  # its own BPDU came back: the port's LAN is a loop
        elif bpdu.designated:
            self._take_designated(port, bpdu)
        elif bpdu.priority >= port.port_priority:
            self._take_root_or_alternate(port, bpdu)

    def _is_own(self, port: Port, bpdu: Bpdu) -> bool:
        return (bpdu.priority.bridge_id, bpdu.priority.port_id) == (self.settings.bridge_id, port.port_id)

    def _take_designated(self, port: Port, bpdu: Bpdu) -> None:
        """Superior, repeated or inferior designated information."""
        same = bpdu.priority == port.port_priority and bpdu.times == port.port_times
        if same and port.info_is is Info.RECEIVED:
            port.proposed = port.proposed or bpdu.proposal
            self._note_topology_change(port, bpdu)
            _restart_information(port)
        elif _is_superior(bpdu.priority, port.port_priority) or bpdu.priority == port.port_priority:
            port.agreed = port.proposing = False
            port.proposed = port.proposed or bpdu.proposal
            self._note_topology_change(port, bpdu)
            port.agree = port.agree and port.info_is is Info.RECEIVED and bpdu.priority <= port.port_priority
            self._forget_what_is_withdrawn(port, bpdu.priority)
            port.port_priority, port.port_times = bpdu.priority, bpdu.times
            _restart_information(port)
            port.info_is = Info.RECEIVED
            port.reselect, port.selected = True, False
        elif bpdu.learning:
            port.disputed, port.agreed = True, False  # recordDispute (17.21.10)

    def _forget_what_is_withdrawn(self, port: Port, said: PriorityVector) -> None:
        """What a bridge has said better before on other links to it is no more, though its word for them may be late.

        Not the standard's: there an alternate port at such a link opens with the old root, the neighbour takes that for
        a new way to it, and both count up to Max Age with a loop between them.
        """
        for other in self.ports.values():
            known = other.port_priority
            same_neighbour = other.info_is is Info.RECEIVED and known.bridge_id == said.bridge_id
            if other is not port and same_neighbour and known[:2] < said[:2]:
                other.info_is = Info.AGED
                other.reselect, other.selected = True, False

    def _take_root_or_alternate(self, port: Port, bpdu: Bpdu) -> None:
        """recordAgreement (17.21.9)."""
        port.agreed = self.settings.rapid and not port.is_shared and bpdu.agreement
        if port.agreed:
            port.proposing = False
        self._note_topology_change(port, bpdu)

    @staticmethod
    def _note_topology_change(port: Port, bpdu: Bpdu) -> None:
        """setTcFlags (17.21.17)."""
        port.rcvd_tc = port.rcvd_tc or bpdu.topology_change
        port.rcvd_tc_ack = port.rcvd_tc_ack or bpdu.topology_change_ack

    # --- port role selection (17.28) --------------------------------------------------------------------------------

    def _select_roles(self) -> bool:
        if not any(port.reselect for port in self.ports.values()):
            return False
        for port in self.ports.values():
            port.reselect = False
        self._find_root()
        for port in self.ports.values():
            port.designated_priority = PriorityVector(
                self.root_priority.root_id,
                self.root_priority.root_path_cost,
                self.settings.bridge_id,
                port.port_id,
            )
            port.designated_times = self.root_times._replace(hello_time=self.settings.hello_time)
            self._select_role(port)
            port.selected = True
        return True

    def _find_root(self) -> None:
        """The best of this bridge's own vector and those received, with the cost of the way there (17.21.25 a to c)."""
        own = PriorityVector(self.settings.bridge_id, 0, self.settings.bridge_id, 0)
        best, self.root_port, self.root_times = (*own, 0), 0, self.settings.times
        for port in self.ports.values():
            received = port.port_priority
            if port.info_is is not Info.RECEIVED or port.settings.root_guard or self._is_from_here(received):
                continue
            cost = min(received.root_path_cost + port.path_cost, _HIGHEST_COST)
            candidate = (*received._replace(root_path_cost=cost), port.port_id)
            if candidate < best:
                best, self.root_port = candidate, port.number
                age = round(port.port_times.message_age + 1)
                self.root_times = port.port_times._replace(message_age=age)
        self.root_priority = PriorityVector(*best[:4])

    def _is_from_here(self, vector: PriorityVector) -> bool:
        return (vector.bridge_id ^ self.settings.bridge_id) & _ADDRESS_MASK == 0

    def _select_role(self, port: Port) -> None:
        """17.21.25 f to l."""
        port.updt_info = False
        port.guard = Guard.NONE if port.guard is Guard.ROOT else port.guard
        match port.info_is:
            case Info.DISABLED:
                port.selected_role = Role.DISABLED
            case Info.AGED:
                port.selected_role, port.updt_info = Role.DESIGNATED, True
            case Info.MINE:
                port.selected_role = Role.DESIGNATED
                mine = (port.designated_priority, port.designated_times)
                port.updt_info = (port.port_priority, port.port_times) != mine
            case Info.RECEIVED:
                self._select_role_beside(port)

    def _select_role_beside(self, port: Port) -> None:
        """The role of a port whose LAN somebody else is, or was, designated for."""
        if port.number == self.root_port:
            port.selected_role = Role.ROOT
        elif port.designated_priority < port.port_priority:
            port.selected_role, port.updt_info = Role.DESIGNATED, True
        elif self._is_from_here(port.port_priority):
            port.selected_role = Role.BACKUP
        else:
            port.selected_role = Role.ALTERNATE
            port.guard = Guard.ROOT if port.settings.root_guard else port.guard

    # --- port role transitions (17.29) ------------------------------------------------------------------------------

    def _change_role(self, port: Port) -> bool:
        if not port.settled:
            return False
        if port.role is not port.selected_role:
            self._enter_role(port)
            return True
        match port.role:
            case Role.ROOT:
                return self._run_root(port)
            case Role.DESIGNATED:
                return self._run_designated(port)
            case Role.DISABLED:
                return self._run_blocked(port, int(port.designated_times.max_age))
        return self._run_alternate(port)

    @staticmethod
    def _enter_role(port: Port) -> None:
        port.role = port.selected_role
        if port.role is Role.ROOT:
            port.rr_while = port.fwd_delay
        elif port.role is not Role.DESIGNATED:
            port.learn = port.forward = False

    @staticmethod
    def _run_blocked(port: Port, fd_while: int) -> bool:
        """DISABLED_PORT and ALTERNATE_PORT: nothing passes, so the port is in step with any change of the tree."""
        if port.learning or port.forwarding:
            return False
        if port.fd_while == fd_while and port.synced and not (port.sync or port.re_root or port.rr_while):
            return False
        port.fd_while, port.rr_while = fd_while, 0
        port.synced, port.sync, port.re_root = True, False, False
        return True

    def _run_root(self, port: Port) -> bool:
        if port.proposed and not port.agree:
            self._sync_tree()
            port.proposed = False
        elif (self._all_synced() and not port.agree) or (port.proposed and port.agree):
            port.proposed = port.sync = False
            port.agree = port.new_info = True
        elif not port.forward and not port.re_root:
            for other in self.ports.values():
                other.re_root = True  # setReRootTree
        elif self._may_open(port) and not port.learn:
            port.fd_while, port.learn = port.forward_delay, True
        elif self._may_open(port) and port.learn and not port.forward:
            port.fd_while, port.forward = 0, True
        elif port.re_root and port.forward:
            port.re_root = False
        elif port.rr_while != port.fwd_delay:
            port.rr_while = port.fwd_delay
        else:
            return False
        return True

    def _may_open(self, port: Port) -> bool:
        """A new root port need not wait when all recent root ports have been retired (17.29.2), unless in doubt."""
        retired = all(other.rr_while == 0 for other in self.ports.values() if other is not port)
        at_once = retired and port.rb_while == 0 and self.settings.rapid and self.doubt_while == 0
        return port.fd_while == 0 or at_once

    def _run_designated(self, port: Port) -> bool:
        must_close = (port.sync and not port.synced) or (port.re_root and port.rr_while) or port.disputed
        may_open = port.fd_while == 0 or port.agreed or port.oper_edge
        may_open = may_open and (port.rr_while == 0 or not port.re_root) and not port.sync
        if not (port.forward or port.agreed or port.proposing or port.oper_edge):
            port.proposing = port.new_info = True
            port.edge_delay_while = port.edge_delay
        elif self._gets_in_step(port):
            port.rr_while, port.synced, port.sync = 0, True, False
        elif port.rr_while == 0 and port.re_root:
            port.re_root = False
        elif must_close and not port.oper_edge and (port.learn or port.forward):
            port.learn = port.forward = port.disputed = False
            port.fd_while = port.forward_delay
        elif may_open and not port.learn:
            port.learn, port.fd_while = True, port.forward_delay
        elif may_open and port.learn and not port.forward:
            port.forward, port.fd_while, port.agreed = True, 0, port.send_rstp
        else:
            return False
        return True

    @staticmethod
    def _gets_in_step(port: Port) -> bool:
        """DESIGNATED_SYNCED."""
        closed = not port.learning and not port.forwarding
        return ((closed or port.agreed or port.oper_edge) and not port.synced) or (port.sync and port.synced)

    def _run_alternate(self, port: Port) -> bool:
        if port.proposed and not port.agree:
            self._sync_tree()
            port.proposed = False
        elif (self._all_synced() and not port.agree) or (port.proposed and port.agree):
            port.proposed = False
            port.agree = port.new_info = True
        elif port.role is Role.BACKUP and port.rb_while != 2 * int(port.designated_times.hello_time):
            port.rb_while = 2 * int(port.designated_times.hello_time)
        else:
            return self._run_blocked(port, port.forward_delay)
        return True

    def _sync_tree(self) -> None:
        """setSyncTree (17.21.14)."""
        for port in self.ports.values():
            port.sync = True

    def _all_synced(self) -> bool:
        """17.20.3: every port is in step with its role (the root port is what the others are in step with)."""
        return all(
            port.settled and port.role is port.selected_role and (port.synced or port.role is Role.ROOT)
            for port in self.ports.values()
        )

    # --- port state transitions (17.30) -----------------------------------------------------------------------------

    def _change_state(self, port: Port) -> bool:
        before = port.state
        if before is State.DISCARDING and port.learn:
            port.learning = True
        elif before is State.LEARNING and not port.learn:
            port.learning = False
        elif before is State.LEARNING and port.forward:
            port.forwarding = True
        elif before is State.FORWARDING and not port.forward:
            port.learning = port.forwarding = False
        else:
            return False
        self._effects.append(SetState(port.number, port.state))
        return True

    # --- topology change (17.31) ------------------------------------------------------------------------------------

    def _change_topology(self, port: Port) -> bool:
        match port.change:
            case Change.INACTIVE:
                return self._start_change(port)
            case Change.LEARNING:
                return self._detect_change(port)
        return self._pass_change_on(port)

    @staticmethod
    def _start_change(port: Port) -> bool:
        if port.learn:
            _forget_change(port)
            port.change = Change.LEARNING
            return True
        return False

    def _detect_change(self, port: Port) -> bool:
        active = port.role in (Role.ROOT, Role.DESIGNATED)
        noticed = port.rcvd_tc or port.rcvd_tcn or port.rcvd_tc_ack or port.tc_prop
        if active and port.forward and not port.oper_edge:
            self._new_change(port)
            self._propagate_change(port)
            port.new_info = True
            port.change = Change.ACTIVE
        elif not active and not (port.learn or port.learning) and not noticed:
            self._effects.append(Flush(port.number))
            port.tc_while, port.tc_ack = 0, False
            port.change = Change.INACTIVE
        elif noticed:
            _forget_change(port)
        else:
            return False
        return True

    def _pass_change_on(self, port: Port) -> bool:
        if port.role not in (Role.ROOT, Role.DESIGNATED) or port.oper_edge:
            _forget_change(port)
            port.change = Change.LEARNING
        elif port.rcvd_tcn or port.rcvd_tc:
            if port.rcvd_tcn:
                self._new_change(port)
            port.rcvd_tcn = port.rcvd_tc = False
            port.tc_ack = port.tc_ack or port.role is Role.DESIGNATED
            self._propagate_change(port)
        elif port.tc_prop:
            self._new_change(port)
            self._effects.append(Flush(port.number))
            port.tc_prop = False
        elif port.rcvd_tc_ack:
            port.tc_while, port.rcvd_tc_ack = 0, False
        else:
            return False
        return True

    def _new_change(self, port: Port) -> None:
        """newTcWhile (17.21.7)."""
        if port.tc_while:
            return
        if port.send_rstp:
            port.tc_while, port.new_info = int(port.designated_times.hello_time) + 1, True
        else:
            port.tc_while = int(self.root_times.max_age + self.root_times.forward_delay)

    def _propagate_change(self, port: Port) -> None:
        """setTcPropTree (17.21.18)."""
        for other in self.ports.values():
            if other is not port:
                other.tc_prop = True

    # --- port transmit (17.26) --------------------------------------------------------------------------------------

    def _transmit(self, port: Port) -> None:
        if not port.enabled or not port.settled or port.settings.bpdu_filter:
            return
        designated, root = port.role is Role.DESIGNATED, port.role is Role.ROOT
        if port.hello_when == 0:
            port.new_info = port.new_info or designated or (root and port.tc_while > 0)
            port.hello_when = self.settings.hello_time
        if not port.new_info or port.tx_count >= self.settings.transmit_hold_count:
            return
        port.new_info = False
        if port.send_rstp or designated:
            self._send(port, self._rst_bpdu(port) if port.send_rstp else self._config_bpdu(port))
            port.tc_ack = False
        elif root:
            self._send(port, Bpdu(Type.TCN))

    def _send(self, port: Port, bpdu: Bpdu) -> None:
        port.tx_count += 1
        port.hello_when = self.settings.hello_time
        self._effects.append(Send(port.number, bpdu))

    @staticmethod
    def _rst_bpdu(port: Port) -> Bpdu:
        """txRstp (17.21.20)."""
        return Bpdu(
            Type.RST,
            port.designated_priority,
            port.designated_times,
            role=_WIRE_ROLES[port.role],
            topology_change=port.tc_while > 0,
            proposal=port.proposing,
            learning=port.learning,
            forwarding=port.forwarding,
            agreement=port.agree,
        )

    @staticmethod
    def _config_bpdu(port: Port) -> Bpdu:
        """txConfig (17.21.19)."""
        return Bpdu(
            Type.CONFIG,
            port.designated_priority,
            port.designated_times,
            topology_change=port.tc_while > 0,
            topology_change_ack=port.tc_ack,
        )


_TIMERS = (
    "edge_delay_while",
    "fd_while",
    "hello_when",
    "mdelay_while",
    "others_while",
    "rb_while",
    "rcvd_info_while",
    "rr_while",
    "tc_while",
    "tx_count",
)
_WIRE_ROLES = {
    Role.DISABLED: WireRole.UNKNOWN,
    Role.ROOT: WireRole.ROOT,
    Role.DESIGNATED: WireRole.DESIGNATED,
    Role.ALTERNATE: WireRole.ALTERNATE_OR_BACKUP,
    Role.BACKUP: WireRole.ALTERNATE_OR_BACKUP,
}


def _is_superior(message: PriorityVector, known: PriorityVector) -> bool:
    """17.6: better, or newer from the same port of the same bridge."""
    same_bridge = (message.bridge_id ^ known.bridge_id) & _ADDRESS_MASK == 0
    same_port = (message.port_id ^ known.port_id) & _PORT_NUMBER_MASK == 0
    return message < known or (same_bridge and same_port)


def _note_speaker(port: Port, bpdu: Bpdu) -> None:
    """Who sent a BPDU; a TCN does not say. Another than before: something passes BPDUs on here, as a dead bridge does.

    Then one that agrees does not agree for all, and who else there is cannot be known: time has to pass.
    """
    if bpdu.type is Type.TCN:
        return
    speaker = bpdu.priority.bridge_id & _ADDRESS_MASK, bpdu.priority.port_id & _PORT_NUMBER_MASK
    if port.speaker not in (None, speaker):
        port.others_while = round(port.designated_times.max_age)
    port.speaker = speaker


def _restart_information(port: Port) -> None:
    """updtRcvdInfoWhile (17.21.23): three hello times, unless the information is too old already."""
    times = port.port_times
    port.rcvd_info_while = 3 * max(1, round(times.hello_time)) if times.message_age + 1 <= times.max_age else 0


def _forget_change(port: Port) -> None:
    port.rcvd_tc = port.rcvd_tcn = port.rcvd_tc_ack = port.tc_prop = False
