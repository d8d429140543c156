"""Rate limits: never more than the bucket allows, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.serving import limits as limits_module
from qanchor.serving.limits import Limits


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_the_rate_then_the_wait_that_it_said():
    clock = Clock()
    limits = Limits(rate=2.0, burst=3.0, clock=clock)
    assert [limits.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.5)]
    assert limits.take("b") == 0.0
    clock.now += 0.5
    assert limits.take("a") == 0.0
    assert limits.take("a") == pytest.approx(0.5)


def test_a_request_dearer_than_the_burst_is_paid_for_later():
    clock = Clock()
    limits = Limits(rate=1.0, burst=2.0, clock=clock)
    assert limits.take("a", cost=10) == 0.0
    assert limits.take("a") == pytest.approx(9)
    clock.now += 9
    assert limits.take("a") == 0.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(1, 4)), min_size=1, max_size=60))
def test_no_stretch_of_time_grants_more_than_burst_and_rate(requests):
    clock = Clock()
    limits = Limits(rate=2.0, burst=5.0, clock=clock)
    granted = []
    for pause, cost in requests:
        clock.now += pause
        wait = limits.take("a", cost)
        if wait == 0.0:
            granted.append((clock.now, cost))
        else:
            assert 0 < wait <= cost / 2.0 + 1e-6
    for i, (start, _) in enumerate(granted):
        spent = 0
        for end, cost in granted[i:]:
            spent += cost
            assert spent <= 5.0 + 2.0 * (end - start) + 1e-6


def test_a_crowd_of_names_is_bounded_and_buys_nothing(monkeypatch):
    monkeypatch.setattr(limits_module, "BUCKETS", 10)
    clock = Clock()
    limits = Limits(rate=1.0, burst=1.0, clock=clock)
    assert sum(limits.take(f"name {n}") == 0.0 for n in range(1000)) == 11
    assert limits.take("name 3") > 0
    assert len(limits._full_at) == 11
    clock.now += 5
    assert limits.take("new") == 0.0
    assert len(limits._full_at) == 1
