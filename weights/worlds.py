"""Worlds for the shipped weights: simulated wallets of other seeds, each with its logs kept in another way.

Modalities go by other names, some are missing or merged, texts follow other templates, categories and amounts are left
out, windows are longer or shorter, users thinner, clocks coarser; in both languages. What all have in common is what
the weights should learn.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qanchor import config, datasets
from qanchor.config import Config
from qanchor.events import splits
from qanchor.events.ingest import ingest
from qanchor.events.profiles import DAY, Profiles
from qanchor.events.store import EventStore

NAMES = {
    "en": {
        "bill": ("payments", "purchases", "orders", "transactions", "bill", "card"),
        "mini": ("services", "mini programs", "visits", "mini"),
        "spm": ("page views", "clicks", "browsing", "spm"),
        "app": ("apps", "app events", "installs", "app"),
        "search": ("searches", "queries", "search"),
        "tabular": ("customer", "profile", "master data", "tabular"),
    },
    "zh": {
        "bill": ("账单", "支付", "交易", "订单"),
        "mini": ("小程序", "服务", "访问"),
        "spm": ("页面", "点击", "浏览"),
        "app": ("应用", "应用行为"),
        "search": ("搜索", "查询"),
        "tabular": ("客户资料", "画像"),
    },
}
TEMPLATES = {
    "bill": (
        "{merchant} ({mcc})",
        "{mcc}: {merchant}",
        "{merchant}",
        "pays {merchant}",
        "{mcc} at {merchant}",
        "{mcc}",
    ),
    "mini": ("{program}: {page}", "{industry}: {program}", "{program}", "opens {page} of {program}"),
    "spm": ("{path}", "views {path}", "{site}"),
    "app": ("{action} {app_name}", "{app_name}", "{app_category}: {app_name}"),
    "search": ("{query}", "searches for {query}", "{vertical}: {query}"),
}
OPTIONAL = ("mini", "spm", "app", "search", "tabular")
"""Logs that a world may lack."""


@dataclass(frozen=True)
class World:
    """One world's training and validation users."""

    config: Config
    past: Profiles
    future: Profiles
    training: Any
    """[N] bool: the others are for validation."""


def make(folder: Path, seed: int, users: int) -> World:
    """Simulate, keep the logs in the world's own way, ingest, and read both windows."""
    rng = np.random.default_rng(seed)
    language = "zh" if seed % 3 == 2 else "en"
    raw = folder / f"world-{seed}"
    if not (raw / "qanchor.yaml").exists():
        datasets.prepare("wallet", raw, None, users=users, seed=seed, language=language)
    told = vary(yaml.safe_load((raw / "qanchor.yaml").read_text(encoding="utf-8")), rng, language)
    varied = config.parse(told, raw)
    ingest(varied, raw / "store", lambda stage, n: None)
    store = EventStore.open(varied, raw / "store")
    requests = splits.requests(varied, store)
    requests = requests.filter(requests["split"] != "test")
    past, future = store.profiles(requests), store.futures(requests, varied.windows.predict_days)
    keep, dated = (1.0, 1.0, 0.5, 0.25)[rng.integers(4)], rng.random() < 0.15
    past, future = (_coarser(_thinner(side, keep, rng), dated) for side in (past, future))
    return World(varied, past, future, requests["split"].to_numpy() == "train")


def vary(told: dict[str, Any], rng: np.random.Generator, language: str) -> dict[str, Any]:
    """Another way to keep the same logs."""
    called = {name: str(rng.choice(names)) for name, names in NAMES[language].items()}
    if rng.random() < 0.3:  # one log for two
        first, second = rng.choice(["bill", "mini", "spm", "app"], 2, replace=False)
        called[second] = called[first]
    gone = {name for name in OPTIONAL if rng.random() < 0.2}
    plain, priceless = rng.random() < 0.3, rng.random() < 0.25
    sources = []
    for source in told["sources"]:
        modality = source["modality"]
        if modality in gone:
            continue
        if "text" in source and not source["path"].startswith("transfer") and language == "en":
            source["text"] = str(rng.choice(TEMPLATES[modality]))
        if plain:
            source.pop("category", None)
        if priceless:
            source.pop("value", None)
        sources.append({**source, "modality": called[modality]})
    lookback, predict = int(rng.choice([45, 60, 90])), int(rng.choice([7, 14, 30]))
    kept = {called["tabular"]: told["modalities"]["tabular"]} if "tabular" not in gone else {}
    events = {called[name]: {"events": int(rng.choice([8, 16, 24, 32]))} for name in ("bill", "mini", "spm")}
    used = {source["modality"] for source in sources}
    return {
        **told,
        "sources": sources,
        "modalities": {name: what for name, what in (events | kept).items() if name in used},
        "windows": {**told["windows"], "lookback_days": lookback, "predict_days": predict},
        "scenarios": {},
    }


def _thinner(side: Profiles, keep: float, rng: np.random.Generator) -> Profiles:
    """Each event stays with this probability."""
    stays = rng.random(len(side.time)) < keep
    counts = np.bincount(side.owner[stays], minlength=len(side))
    return Profiles(
        side.user_ids,
        side.as_of,
        np.concatenate([[0], np.cumsum(counts)]),
        side.time[stays],
        side.modality[stays],
        side.text[stays],
        side.value[stays],
        side.modalities,
        side.texts,
    )


def _coarser(side: Profiles, dated: bool) -> Profiles:
    """Logs of dates instead of times."""
    time = side.time // DAY * DAY if dated else side.time
    return Profiles(
        side.user_ids, side.as_of, side.offsets, time, side.modality, side.text, side.value, side.modalities, side.texts
    )
