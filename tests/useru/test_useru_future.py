from __future__ import annotations

import numpy as np
import pytest

from qanchor.useru import future
from qanchor.useru.future import Items, representatives


def items(*rows: tuple[int, int, int, int]) -> Items:
    """(user, text, events, bin)"""
    return Items(*np.array(rows, np.int64).T)


KIND = np.array([0, 0, 0, 1, 2])
"""Texts 0 to 2 are of one category, 3 and 4 of others."""


def test_a_rarer_thing_of_another_category_and_bin_goes_before_a_second_of_the_same() -> None:
    """The docstring's example: 44 times in the same cell against 4 times and against twice elsewhere."""
    for elsewhere, first in ((4, 3), (2, 1)):
        chosen = representatives(items((0, 0, 90, 0), (0, 1, 44, 0), (0, 3, elsewhere, 1)), KIND)
        assert chosen.text.tolist() == [0, first, 4 - first]


def test_without_a_discount_it_is_the_plain_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(future, "DISCOUNT", 1.0)
    chosen = representatives(items((0, 0, 90, 0), (0, 1, 44, 0), (0, 3, 43, 1), (0, 4, 45, 2)), KIND)
    assert chosen.times.tolist() == [90, 45, 44, 43]


def test_users_are_chosen_for_apart_from_each_other() -> None:
    one = ((0, 0, 9, 0), (0, 1, 8, 0), (0, 3, 1, 2))
    both = representatives(items(*one, *((1, *row[1:]) for row in one)), KIND)
    alone = representatives(items(*one), KIND)
    assert both.owner.tolist() == [0, 0, 0, 1, 1, 1]
    assert both.text.tolist() == alone.text.tolist() * 2


def test_at_most_six_items_and_none_of_nobody() -> None:
    every = items(*((0, n, n + 1, 0) for n in range(10)))
    chosen = representatives(every, np.arange(10))
    assert chosen.text.tolist() == [9, 8, 7, 6, 5, 4]
    assert len(representatives(items(*[(0, 0, 1, 0)]).of(np.array([], np.int64)), KIND).owner) == 0
