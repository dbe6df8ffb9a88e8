"""The bench's traffic: the same each time, and distributed as it says."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.traffic import ORDER_LENGTH, Traffic


@pytest.mark.parametrize("flows", [1, 3, 1024, 65536])
def test_uniform_flows_have_equal_shares(flows: int) -> None:
    shares = Counter(Traffic("", flows=flows).order())
    assert len(shares) == flows
    assert sum(shares.values()) == ORDER_LENGTH
    assert max(shares.values()) - min(shares.values()) <= 1


def test_zipf_flows_follow_their_rank() -> None:
    traffic = Traffic("", flows=1024, zipf=True)
    shares = Counter(traffic.order())
    first, tenth = (shares[traffic.identities()[rank - 1]] for rank in (1, 10))
    assert 8 < first / tenth < 12.5


def test_the_same_order_each_time() -> None:
    assert Traffic("a", flows=1024).order() == Traffic("b", flows=1024).order()
