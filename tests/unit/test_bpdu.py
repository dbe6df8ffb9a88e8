"""Bytes of BPDUs against the figures of IEEE 802.1D-2004 clause 9, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.protocols.bpdu import Bpdu, PriorityVector, Role, Times, Type

PRIORITY = PriorityVector(0x8000_0200_0000_0001, 4, 0x9000_0200_0000_0002, 0x8003)
TIMES = Times(1, 20, 2, 15)
SOURCE = bytes.fromhex("020000000203")

VECTOR = "8000020000000001 00000004 9000020000000002 8003 0100 1400 0200 0f00"
ON_THE_WIRE = [
    pytest.param(Bpdu(Type.TCN), "0000 00 80", id="tcn"),
    pytest.param(Bpdu(Type.CONFIG, PRIORITY, TIMES), f"0000 00 00 00 {VECTOR}", id="config"),
    pytest.param(
        Bpdu(Type.CONFIG, PRIORITY, TIMES, topology_change=True, topology_change_ack=True),
        f"0000 00 00 81 {VECTOR}",
        id="config with flags",
    ),
    pytest.param(
        Bpdu(Type.RST, PRIORITY, TIMES, role=Role.DESIGNATED, proposal=True),
        f"0000 02 02 0e {VECTOR} 00",
        id="proposal of a designated port",
    ),
    pytest.param(
        Bpdu(
            Type.RST,
            PRIORITY,
            TIMES,
            role=Role.ROOT,
            topology_change=True,
            learning=True,
            forwarding=True,
            agreement=True,
        ),
        f"0000 02 02 79 {VECTOR} 00",
        id="agreement of a root port",
    ),
]


@pytest.mark.parametrize(("bpdu", "wire"), ON_THE_WIRE)
def test_bytes(bpdu: Bpdu, wire: str) -> None:
    assert bpdu.encode() == bytes.fromhex(wire)
    assert Bpdu.decode(bytes.fromhex(wire)) == bpdu


@pytest.mark.parametrize(("bpdu", "wire"), ON_THE_WIRE)
def test_frames(bpdu: Bpdu, wire: str) -> None:
    payload = bytes.fromhex("424203" + wire)
    frame = bytes.fromhex("0180c2000000") + SOURCE + len(payload).to_bytes(2) + payload
    assert bpdu.frame(SOURCE) == frame.ljust(60, b"\0")
    assert Bpdu.of_frame(bpdu.frame(SOURCE)) == bpdu


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param("", id="nothing"),
        pytest.param("0000 00", id="less than a header"),
        pytest.param("0001 00 80", id="another protocol"),
        pytest.param("0000 00 01", id="an unknown type"),
        pytest.param(f"0000 00 00 00 {VECTOR[:-2]}", id="a truncated config"),
        pytest.param(f"0000 02 02 0e {VECTOR}", id="an rst without its version 1 length"),
        pytest.param(f"0000 01 02 0e {VECTOR} 00", id="an rst of version 1"),
        pytest.param(f"0000 00 00 00 {VECTOR}".replace("0100 1400", "1400 1400"), id="information that is too old"),
    ],
)
def test_what_is_none(wire: str) -> None:
    assert Bpdu.decode(bytes.fromhex(wire)) is None


def test_times_are_believed_within_their_ranges() -> None:
    far = VECTOR.replace("0100 1400 0200 0f00", "fee6 ffff 0000 ffff")
    found = Bpdu.decode(bytes.fromhex(f"0000 02 02 0e {far} 00"))
    assert found
    assert found.times == Times(40, 40, 1, 30)


def test_no_role_is_that_of_a_configuration_bpdu() -> None:
    """9.2.9."""
    found = Bpdu.decode(bytes.fromhex(f"0000 02 02 02 {VECTOR} 00"))
    assert found
    assert (found.role, found.designated) == (Role.UNKNOWN, True)


def test_a_newer_version_is_read_as_an_rst() -> None:
    """MSTP (version 3) appends what an RSTP bridge does not read (9.3.4)."""
    wire = bytes.fromhex(f"0000 03 02 0e {VECTOR} 00") + bytes(64)
    assert Bpdu.decode(wire) == Bpdu(Type.RST, PRIORITY, TIMES, role=Role.DESIGNATED, proposal=True)


@pytest.mark.parametrize("frame", [bytes(60), bytes.fromhex("0180c2000001") + Bpdu(Type.TCN).frame(SOURCE)[6:], b""])
def test_frames_that_hold_none(frame: bytes) -> None:
    assert Bpdu.of_frame(frame) is None


def test_a_frame_that_ends_before_its_length() -> None:
    assert Bpdu.of_frame(Bpdu(Type.CONFIG, PRIORITY, TIMES).frame(SOURCE)[:40]) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_a_bpdu_or_none(data: bytes) -> None:
    for prefix in (b"", bytes.fromhex("00000000"), bytes.fromhex("00000202")):
        bpdu = Bpdu.decode(prefix + data)
        if bpdu is not None:
            again = Bpdu.decode(bpdu.encode())
            assert again == bpdu
