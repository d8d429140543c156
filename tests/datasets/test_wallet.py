"""The simulator's promises: reproducible, labelled by its own config's rules, calibrated, and shaped like life."""

import datetime as dt
import re
from pathlib import Path

import polars as pl
import pytest

from qanchor import config as configs
from qanchor.datasets import wallet
from qanchor.errors import DataError

USERS = 4_000
PAPER_AUC = {
    "active": 0.6678,
    "concert": 0.5844,
    "login": 0.8443,
    "forest": 0.9716,
    "fraud": 0.9242,
    "money": 0.9439,
    "takeout": 0.8811,
    "brand": 0.8535,
    "promo": 0.6350,
    "value": 0.9194,
}
"""Table 2, Q-Anchor (Prompt Tuned)."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wallet.prepare(tmp_path_factory.mktemp("wallet"), users=USERS).parent


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wallet.prepare(tmp_path_factory.mktemp("zh"), users=600, language="zh").parent


@pytest.fixture(scope="module")
def log(raw: Path) -> pl.DataFrame:
    return logged(raw)


def logged(raw: Path) -> pl.DataFrame:
    """All text events as the config reads them: user, time, modality, category, text."""
    parts = []
    for source in configs.load(raw / "qanchor.yaml").sources:
        if source.text is None or source.category is None:
            continue
        rows = pl.read_parquet(raw / source.path)
        epoch = rows[source.time].dtype == pl.Int64
        time = pl.from_epoch(source.time, time_unit="s") if epoch else pl.col(source.time)
        parts.append(
            rows.select(
                user_id=pl.col(source.user),
                time=time.cast(pl.Datetime("us")),
                modality=pl.lit(source.modality),
                category=rendered(source.category),
                text=rendered(source.text),
            )
        )
    return pl.concat(parts)


def rendered(template: str) -> pl.Expr:
    return pl.concat_str([column(piece) for piece in re.split(r"({[^}]+})", template) if piece])


def column(piece: str) -> pl.Expr:
    if not piece.startswith("{"):
        return pl.lit(piece)
    name, _, band = piece.strip("{}").partition(":")
    return pl.col(name).log10().floor().cast(pl.String) if band else pl.col(name)


def history(log: pl.DataFrame, day: int) -> pl.DataFrame:
    """Events of the 90 days before `day`, with the days that each lies before it."""
    as_of = dt.datetime(2025, 1, 1) + dt.timedelta(days=day)
    return log.with_columns(ago=(as_of - pl.col("time")).dt.total_days()).filter(
        pl.col("time") < as_of, pl.col("ago") < 90
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = (
        contents(wallet.prepare(tmp_path / name, users=80, seed=seed).parent)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first == second
    assert first["bill/2025-03.parquet"] != other["bill/2025-03.parquet"]


def test_the_first_users_do_not_depend_on_how_many_follow(tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    wallet.simulate(few, 150, days=50, as_of_days=(20,))
    wallet.simulate(many, wallet.CHUNK + 100, days=50, as_of_days=(20,))
    last = "w0000149"
    for folder in (*wallet.FOLDERS, "truth", "labels"):
        a, b = (pl.read_parquet(path / folder / "*.parquet") for path in (few, many))
        user = a.columns[0]
        assert a.sort(pl.all()).equals(b.filter(pl.col(user) <= last).sort(pl.all())), folder
        assert b[user].max() > last


def test_an_earlier_simulation_leaves_nothing_behind(tmp_path: Path) -> None:
    wallet.simulate(tmp_path, 20, days=70, as_of_days=(30,))
    assert (tmp_path / "spm/2025-03.parquet").exists()
    wallet.simulate(tmp_path, 20, days=50, as_of_days=())
    assert sorted(path.name for path in (tmp_path / "spm").iterdir()) == ["2025-01.parquet", "2025-02.parquet"]
    assert not list((tmp_path / "labels").iterdir())


def test_a_prediction_window_past_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 120 days"):
        wallet.simulate(tmp_path, 10, days=100)


def test_the_config_names_the_ten_scenarios_and_clean_windows(raw: Path) -> None:
    config = configs.load(raw / "qanchor.yaml")
    assert set(config.scenarios) == set(PAPER_AUC)
    assert config.modality_names == ("bill", "mini", "spm", "app", "search", "tabular")
    for scenario in config.scenarios.values():
        assert scenario.label is not None or (raw / str(scenario.labels)).exists()
    flags = pl.read_parquet(raw / "labels/fraud.parquet")
    assert set(flags["as_of"].dt.date()) == {*config.windows.train, *config.windows.test}


@pytest.mark.parametrize("world", ["raw", "chinese"])
def test_the_rules_of_the_config_give_the_labels_of_the_truth(world: str, request: pytest.FixtureRequest) -> None:
    raw: Path = request.getfixturevalue(world)
    log = logged(raw)
    truth = pl.read_parquet(raw / "truth/oracle.parquet")
    for name, scenario in configs.load(raw / "qanchor.yaml").scenarios.items():
        expected = truth.filter(scenario=name)
        if scenario.label is None:
            assert pl.read_parquet(raw / str(scenario.labels)).equals(expected.select("user_id", "as_of", "label"))
            continue
        where = scenario.label.where
        hits = log.filter(
            pl.col("modality").is_in(where.modality) if where.modality else True,
            pl.col("category").is_in(where.category) if where.category else True,
            pl.col("text").str.contains(where.text) if where.text else True,
        )
        for (as_of,), rows in expected.group_by("as_of"):
            ahead = hits.filter(pl.col("time").is_between(as_of, as_of + dt.timedelta(days=30), closed="left"))
            fired = rows["user_id"].is_in(ahead["user_id"].unique().to_list()).cast(pl.Int8)
            assert fired.equals(rows["label"]), (name, as_of)


def test_the_oracle_is_calibrated(raw: Path) -> None:
    truth = pl.read_parquet(raw / "truth/oracle.parquet").with_columns(level=(pl.col("probability") * 4).floor())
    variance = (pl.col("probability") * (1 - pl.col("probability"))).sum()
    for by in (["scenario"], ["scenario", "level"]):
        groups = truth.group_by(by).agg(
            gap=(pl.col("label") - pl.col("probability")).sum().abs(), noise=variance.sqrt(), users=pl.len()
        )
        far = groups.filter(pl.col("gap") > 4 * pl.col("noise") + 1)
        assert far.is_empty(), far


def test_rates_and_difficulty_are_those_of_the_paper(raw: Path) -> None:
    table = wallet.oracle_table(raw)
    assert table["scenario"].to_list() == list(PAPER_AUC)
    assert table.filter(~pl.col("rate").is_between(0.04, 0.75)).is_empty()
    gap = table["auc"] - pl.Series(list(PAPER_AUC.values()))
    assert gap.is_between(0, 0.05).all(), table
    assert 0.015 < gap.mean() < 0.03


def test_the_oracle_table_can_be_narrowed_to_some_users(raw: Path) -> None:
    keys = pl.read_parquet(raw / "labels/fraud.parquet").filter(pl.col("as_of").dt.month() == 4)
    some = wallet.oracle_table(raw, keys.select("user_id", "as_of"))
    april = pl.read_parquet(raw / "truth/oracle.parquet").filter(pl.col("as_of").dt.month() == 4, scenario="login")
    assert some.filter(scenario="login")["rate"].item() == pytest.approx(april["label"].mean())
    lonely = wallet.oracle_table(raw, keys.head(1))
    assert lonely["auc"].null_count() == 10


def test_users_are_few_to_a_thousand_events_and_eighty_in_the_middle(log: pl.DataFrame) -> None:
    counts = history(log, 90).group_by("user_id").len()["len"]
    assert 70 <= counts.median() <= 90
    assert 1.0 <= counts.sum() / USERS / 90 <= 1.3
    assert counts.min() <= 3
    assert counts.max() >= 900


def test_texts_have_a_long_tail(log: pl.DataFrame) -> None:
    for modality in ("bill", "mini", "spm", "search"):
        counts = log.filter(modality=modality)["text"].value_counts()["count"].sort(descending=True)
        assert len(counts) > 1_000
        assert counts.head(len(counts) // 10).sum() > 0.4 * counts.sum()
        assert (counts <= 5).sum() > 0.2 * len(counts)


def test_categories_are_coarse(log: pl.DataFrame) -> None:
    sizes = log.group_by("modality").agg(pl.col("category").n_unique())
    assert sizes["category"].is_between(8, 15).all(), sizes


def test_users_have_favourites(log: pl.DataFrame) -> None:
    """The likeliest restaurant of a user is far more than the likeliest restaurant of all."""
    shops = log.filter(pl.col("text").str.contains("takeaway delivery")).with_columns(
        shop=pl.col("text").str.split(" takeaway").list.first()
    )
    top = shops.group_by("user_id", "shop").len().group_by("user_id").agg(pl.col("len").max(), n=pl.col("len").sum())
    regulars = top.filter(pl.col("n") >= 15)
    share = (regulars["len"] / regulars["n"]).mean()
    assert share > 2 * shops["shop"].value_counts()["count"].max() / len(shops)


def test_days_and_weeks_have_a_rhythm(log: pl.DataFrame) -> None:
    metro = log.filter(pl.col("text").str.contains("metro"))
    weekend = metro.filter(pl.col("time").dt.weekday() >= 6)
    assert len(weekend) / len(metro) < 0.2
    meals = log.filter(pl.col("text").str.contains("restaurant"))["time"].dt.hour()
    assert meals.is_in([12, 13, 18, 19]).sum() > 20 * meals.is_in([4, 5, 6]).sum()
    salaries = log.filter(pl.col("text").str.contains("payroll"))["time"].dt.day()
    assert salaries.is_in([1, 2, 10, 11, 15, 16, 25, 26]).mean() > 0.8


def test_the_recent_past_says_more_than_the_old_past(log: pl.DataFrame) -> None:
    wealth = history(log, 150).filter(pl.col("category") == "finance")
    counts = wealth.group_by("user_id").agg(
        *((pl.col("ago") // 30 == month).sum().cast(pl.Float64).sqrt().alias(f"m{month}") for month in range(3))
    )
    assert counts.select(pl.corr("m0", "m1")).item() > counts.select(pl.corr("m0", "m2")).item() + 0.02


def test_flagged_users_leave_traces_and_so_do_some_innocents(raw: Path, log: pl.DataFrame) -> None:
    flagged = pl.read_parquet(raw / "labels/fraud.parquet").filter(pl.col("as_of").dt.month() == 4)
    traces = history(log, 90).filter(pl.col("text").str.contains("first-time payee|new device|identity check"))
    counts = flagged.join(traces.group_by("user_id").len(), on="user_id", how="left").with_columns(
        pl.col("len").fill_null(0)
    )
    guilty, innocent = (counts.filter(label=label)["len"] for label in (1, 0))
    assert guilty.mean() > 4 * innocent.mean()
    assert (guilty == 0).any()
    assert (innocent > guilty.median()).any()


def test_chinese_is_the_same_world_in_other_words(raw: Path, chinese: Path) -> None:
    english = pl.read_parquet(raw / "truth/oracle.parquet").filter(pl.col("user_id") < "w0000600")
    assert english.sort(pl.all()).equals(pl.read_parquet(chinese / "truth/oracle.parquet").sort(pl.all()))
    log = logged(chinese)
    assert log["text"].str.contains(r"\p{Han}").all()
    assert log["category"].str.contains(r"^\p{Han}+$").all()
    ours = logged(raw).filter(pl.col("user_id") < "w0000600")
    assert (
        log.select("user_id", "time", "modality")
        .sort(pl.all())
        .equals(ours.select("user_id", "time", "modality").sort(pl.all()))
    )
    config = configs.load(chinese / "qanchor.yaml")
    assert config.useru.language == "zh"
    assert all(re.search(r"[\u4e00-\u9fff]", scenario.query) for scenario in config.scenarios.values())
