"""The ledger: who waits, who is turned away, and that the budget holds whatever is spent."""

from __future__ import annotations

import asyncio
import random

import pytest
from synthesis_world import settings

from qanchor.config import LLM
from qanchor.errors import BudgetError, ConfigError
from qanchor.useru.synthesis.ledger import Ledger, Tally, roughly


def priced(budget: float | None) -> LLM:
    found = settings(price_in=1_000_000, price_out=0, budget=budget).useru.llm  # a prompt token costs 1
    assert found is not None
    return found


def test_tallies_add_up():
    total = Tally()
    total.add(Tally(1, 10, 5))
    total.retries["timeout"] += 2
    total.add(total)
    assert total.told() == {"requests": 2, "prompt_tokens": 20, "completion_tokens": 10, "retries": {"timeout": 4}}
    assert Tally(1, 2_000_000, 1_000_000).cost(settings(price_in=3, price_out=4).useru.llm) == 10  # type: ignore[arg-type]


def test_a_budget_needs_prices():
    with pytest.raises(ConfigError, match="price_in"):
        Ledger(settings(budget=5).useru.llm, Tally())  # type: ignore[arg-type]


def test_whoever_does_not_fit_waits_for_what_others_leave_over():
    async def play() -> list[str]:
        ledger, order = Ledger(priced(10), Tally()), []
        price = await ledger.admit(Tally(1, 8))

        async def second() -> None:
            await ledger.admit(Tally(1, 5))
            order.append("second in")

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0.01)
        order.append("first out")
        await ledger.settle(price, Tally(1, 3))
        await waiting
        return order

    assert asyncio.run(play()) == ["first out", "second in"]


def test_what_earlier_runs_spent_counts():
    async def play() -> None:
        await Ledger(priced(10), Tally(1, 6)).admit(Tally(1, 5))

    with pytest.raises(BudgetError, match=r"6\.0000 is spent and the next user could cost 5\.0000"):
        asyncio.run(play())


@pytest.mark.parametrize("seed", range(5))
def test_the_budget_is_never_passed_and_hardly_left_unused(seed):
    """Many at a time, each spending anything up to its worst."""
    rng = random.Random(seed)

    async def play() -> float:
        ledger = Ledger(priced(200), Tally())

        async def user() -> None:
            while True:
                price = await ledger.admit(Tally(1, 10))
                await asyncio.sleep(0.001 * rng.random())
                await ledger.settle(price, Tally(1, rng.randint(0, 10)))
                assert ledger.cost <= 200

        ends = await asyncio.gather(*(user() for _ in range(16)), return_exceptions=True)
        assert {type(end) for end in ends} == {BudgetError}
        return ledger.cost

    assert 190 < asyncio.run(play()) <= 200


def test_without_a_budget_nobody_waits():
    async def play() -> None:
        ledger = Ledger(priced(None), Tally())
        for _ in range(100):
            await ledger.admit(Tally(1, 10**9))

    asyncio.run(play())


def test_tokens_are_guessed_by_letters():
    assert roughly("The user drinks tea.") == 5
    assert roughly("用户喜欢喝茶。") == 7
    assert roughly("") == 0
