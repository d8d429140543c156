"""The bench trains each unit once, chooses settings by validation users, and says which differences are real."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from qanchor.baselines.given import Given
from qanchor.evaluation.bench import Bench, Field, Method, Unit, play
from qanchor.evaluation.board import Board
from qanchor.evaluation.differences import Difference, differences, resampled
from qanchor.evaluation.standings import as_json, markdown, standings
from qanchor.probe.metrics import auc, ks

N = 900
SPLIT = np.array(["train"] * 400 + ["validation"] * 200 + ["test"] * 300)
RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=N).astype(np.float32)
LABELS = {
    "easy": (TRUTH + 0.5 * RNG.normal(size=N) > 0).astype(np.float32),
    "rare": (TRUTH + RNG.normal(size=N) > 1).astype(np.float32),
}
FIELD = Field("toy", SPLIT, np.array([f"u{n}" for n in range(N)]), LABELS, "digest")


def noisy(noise: float, seed: int = 0) -> np.ndarray:
    """[N, 2] the truth under noise, and noise."""
    rng = np.random.default_rng(100 + seed)
    return np.stack([TRUTH + noise * rng.normal(size=N), rng.normal(size=N)], 1).astype(np.float32)


def contestants(seen: list[tuple[Any, ...]], stop_after: int = 99) -> dict[str, Method]:
    """Two methods that note when they are trained; the machine goes down after so many trainings."""

    def train(name: str) -> Callable[..., Any]:
        def embed(setting: Any, seed: int) -> dict[str, np.ndarray]:
            if len(seen) >= stop_after:
                raise KeyboardInterrupt
            seen.append((name, dict(setting), seed))
            noise = setting.get("noise", 1.0)
            return (
                {name: noisy(noise, seed)} if name == "one" else {"base": noisy(0.1, seed), "tuned": noisy(0.0, seed)}
            )

        return embed

    return {"one": Method(train("one"), ({"noise": 4.0}, {"noise": 1.0})), "two": Method(train("two"))}


def run(bench: Bench, seeds: int = 3) -> list[Any]:
    return list(play(bench, list(bench.methods), seeds, lambda units: ((unit, bench.run(unit)) for unit in units)))


def test_the_setting_that_validation_users_like_goes_on_to_the_other_seeds(tmp_path):
    seen: list[Any] = []
    bench = Bench(tmp_path, FIELD, contestants(seen))
    assert len(run(bench)) == 2 + 1 + 2 + 2
    assert bench.chosen("one") == Unit("one", {"noise": 1.0}, 0)
    assert [entry for entry in seen if entry[2]] == [
        (name, setting, seed) for name, setting in (("one", {"noise": 1.0}), ("two", {})) for seed in (1, 2)
    ]


def test_a_killed_bench_goes_on_without_training_again(tmp_path):
    seen: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        run(Bench(tmp_path, FIELD, contestants(seen, stop_after=4)))
    assert len(seen) == 4
    bench = Bench(tmp_path, FIELD, contestants(seen))
    run(bench)
    assert len(seen) == 7
    assert len({json.dumps(entry) for entry in seen}) == 7, "each once"
    run(bench)
    assert len(seen) == 7
    assert not list(tmp_path.glob("*.tmp"))


def test_a_unit_whose_json_is_missing_is_run_again_and_a_changed_one_anew(tmp_path):
    seen: list[Any] = []
    bench, unit = Bench(tmp_path, FIELD, contestants(seen)), Unit("two", {}, 0)
    before = bench.run(unit)
    bench.path(unit).unlink()
    assert replace(bench.run(unit), seconds=0) == replace(before, seconds=0)
    assert len(seen) == 2
    for changed in (
        Bench(tmp_path, replace(FIELD, digest="other data"), bench.methods),
        Bench(tmp_path, FIELD, {"two": replace(bench.methods["two"], config={"layers": 2})}),
    ):
        assert changed.outcome(unit) is None
        assert changed.path(unit) != bench.path(unit)


def test_a_given_score_is_judged_as_it_is_scenario_by_scenario(tmp_path):
    told = {"easy": TRUTH[:, None], "rare": -TRUTH[:, None]}
    method = Method(lambda setting, seed: {"told": told}, judges={"told": Given})
    rows = Bench(tmp_path, FIELD, {"m": method}).run(Unit("m", {}, 0)).rows["told"]
    test, validation = SPLIT == "test", SPLIT == "validation"
    for name, sign in (("easy", 1), ("rare", -1)):
        assert rows[name]["auc"] == pytest.approx(auc(LABELS[name][test], sign * TRUTH[test]))
        assert rows[name]["validation_auc"] == pytest.approx(auc(LABELS[name][validation], sign * TRUTH[validation]))


def test_a_classifier_judges_where_one_is_named_and_a_question_without_both_classes_is_not_scored(tmp_path):
    class Second:
        """Takes the second feature for the answer, without looking."""

        def fit(self, *_: Any) -> Second:
            return self

        def score(self, X: np.ndarray) -> np.ndarray:
            return X[:, 1]

    def embed(*_: Any) -> dict[str, np.ndarray]:
        return {"probe": noisy(0.5), "second": noisy(0.5)}

    nobody = np.where(SPLIT == "test", 0, LABELS["easy"]).astype(np.float32)
    field = replace(FIELD, labels={**LABELS, "nobody": nobody})
    rows = (
        Bench(tmp_path, field, {"m": Method(embed, judges={"second": lambda _: Second()})}).run(Unit("m", {}, 0)).rows
    )
    assert rows["probe"]["easy"]["auc"] > 0.8 > 0.6 > rows["second"]["easy"]["auc"]
    assert rows["probe"]["nobody"]["auc"] is None
    assert "both classes" in rows["second"]["nobody"]["reason"]


def test_tables_compare_every_row_with_tuned(tmp_path):
    bench = Bench(tmp_path, FIELD, contestants([]))
    run(bench)
    found = standings(bench, ["one", "two"], 3)
    assert [s.row for s in found] == ["one", "base", "tuned"]
    one, base, tuned = found
    assert tuned.apart == {}
    assert one.apart["auc"].real
    assert one.apart["auc"].high < 0
    assert not base.apart["ks"].real or base.apart["ks"].high < 0
    assert one.apart["auc"].mean == pytest.approx(one.average["auc"] - tuned.average["auc"], abs=1e-6)
    assert one.average["auc_spread"] > 0
    assert one.seeds == 3
    page = markdown(found, {"data": "toy", "command": "c", "hardware": "h", "date": "d", "sizes": {"rows": N}})
    assert page.count("\n| tuned |") == 3
    assert "noise 1.0" in page
    assert json.loads(json.dumps(as_json(found, {})))["rows"][0]["row"] == "one"


def test_the_bootstrap_is_what_a_slow_reading_says():
    rng = np.random.default_rng(3)
    label, times = (rng.random(40) < 0.4).astype(np.float32), rng.integers(0, 4, (6, 40))
    score = rng.integers(0, 9, 40).astype(np.float32)  # many ties
    found = resampled(label, score, times)
    for r, row in enumerate(times):
        copies = np.repeat(np.arange(40), row)
        assert found[:, r] == pytest.approx([auc(label[copies], score[copies]), ks(label[copies], score[copies])])
    assert np.isnan(resampled(label, score, (label == 0).astype(int)[None])).all()


def test_rows_of_a_user_are_drawn_together_and_equals_do_not_differ():
    rng = np.random.default_rng(4)
    label = (rng.random(400) < 0.5).astype(np.float32)
    strong, weak = (label + noise * rng.normal(size=400).astype(np.float32) for noise in (1.0, 1.15))
    scores = {"strong": {"q": [strong]}, "weak": {"q": [weak]}, "twin": {"q": [strong]}}
    alone = differences(scores, {"q": label}, np.arange(400).astype(str), "strong", {})
    assert alone["twin"]["auc"] == Difference(0.0, 0.0, 0.0)
    assert not alone["twin"]["auc"].real
    wide = differences(scores, {"q": label}, (np.arange(400) % 8).astype(str), "strong", {})
    assert wide["weak"]["auc"].mean == alone["weak"]["auc"].mean
    assert wide["weak"]["auc"].high - wide["weak"]["auc"].low != alone["weak"]["auc"].high - alone["weak"]["auc"].low


def test_a_row_of_our_own_is_compared_with_the_same_seeds_and_another_with_all(tmp_path):
    def embed(setting: Any, seed: int) -> dict[str, np.ndarray]:
        return {"tuned": noisy(1.0, seed)}

    def twin(row: str) -> Callable[..., Any]:
        return lambda setting, seed: {row: noisy(1.0, seed)}

    methods = {
        "qanchor": Method(embed, ours=True),
        "as it is": Method(twin("as it is"), ours=True),
        "baseline": Method(twin("baseline")),
    }
    bench = Bench(tmp_path, FIELD, methods)
    for name, seeds in (("qanchor", (0, 1, 2)), ("as it is", (0,)), ("baseline", (0,))):
        for seed in seeds:
            bench.run(Unit(name, {}, seed))
    _, own, baseline = standings(bench, list(methods), 3)
    assert (own.apart["auc"].mean, own.apart["auc"].low, own.apart["auc"].high) == (0.0, 0.0, 0.0)
    assert baseline.apart["auc"].mean != 0


def test_the_board_tells_what_is_done_and_what_failed(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    bench = Bench(tmp_path, FIELD, contestants([]))
    with Board(console, {"one": 4, "two": 3}).shown() as board:
        board.tell(Unit("one", {}, 0), bench.run(Unit("one", {"noise": 1.0}, 0)))
        board.tell(Unit("two", {}, 0), "no such model")
    shown = console.file.getvalue()
    assert "1/4" in shown
    assert "no such model" in shown
    plain = Console(file=io.StringIO(), width=100)
    with Board(plain, {"one": 4}).shown() as board:
        board.tell(Unit("one", {"noise": 1.0}, 0), bench.run(Unit("one", {"noise": 1.0}, 0)))
    assert plain.file.getvalue().startswith("  one · noise 1.0 · seed 0: one .")
