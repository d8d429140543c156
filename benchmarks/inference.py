"""How fast users are embedded: `python benchmarks/inference.py [--device cuda]`, a table and JSON.

Random weights and users; those who race take turns, `--repeats` times, and each number is the median.

1. The shape of Qwen2.5-0.5B, a prefix of 700 tokens, suffixes of 24: ten scenarios against one, and one packed pass
   against reading prefix and suffix anew for each scenario, both beside what their FLOPs say.
2. Users a second of that shape against the authors' layout (710 fixed slots, every event's text read by an encoder of
   BERT's size), for users of log-normal length, median 80 events: a user of a short, a middle and a long third each
   stand for theirs. The layout is treated kindly: empty slots are not encoded. With one scenario it runs once; with
   ten, as in its authors' code, ten times.
3. The embedded default (`qanchor-small`) with ten scenarios: users a second, of whom every one is as long as it is,
   against the floor: the FLOPs of what is read, padding included, at the rate of products of the model's sizes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from contestants import (
    NOT_YET,
    QWEN_05B,
    SLOTS,
    TEXT_TOKENS,
    AuthorsTowers,
    FixedSlots,
    Remembered,
    bert,
    cpu,
    machine,
    product_rate,
    timed,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.inference import engine
from qanchor.inference.engine import QAnchor
from qanchor.model import backbone as backbones
from qanchor.model.batch import prefix_tokens
from qanchor.model.body import Suffixes
from qanchor.model.hierarchy import Prefix
from qanchor.model.persistence import kept_events
from qanchor.model.towers import Towers
from qanchor.training.pretrain import autocast
from qanchor.training.speed import matmul_rate, settle

TARGETS = {
    "cost of 10 scenarios to 1, of the FLOP ratio": 1.15,
    "gain of one packed pass, of the FLOP bound": 0.98,
    "times the authors' users": 20,
    "share of the matmul rate, CPU": 0.7,
    "share of the matmul rate, GPU": 0.6,
}
PREFIX, SUFFIX, SCENARIOS = 700, 24, 10
QUERIES = [f"Will this user buy from shop {i} in the next thirty days?" for i in range(SCENARIOS)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments.add_argument("--repeats", type=int, default=3)
    arguments.add_argument("--users", type=int, default=2_000, help="of the embedded default")
    arguments.add_argument("--quick", action="store_true", help="does it run? two layers, nothing is written")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inference.json")
    options = arguments.parse_args()
    torch.manual_seed(0)
    half = half_billion(options)
    measured = {
        "0.5b, one pass": one_pass(half, options),
        "0.5b, users": against_the_authors(half, options),
        "embedded": embedded(options),
    }
    report(measured, options)


# -- who and what ----------------------------------------------------------------------------------------------------


def population(users: int) -> Profiles:
    """Users of log-normal length, median 80 events of six modalities, each with a taste of its own."""
    rng, modalities = np.random.default_rng(0), tuple(SLOTS)
    texts = [f"{rng.choice(WORDS)} {rng.choice(WORDS)} at {rng.choice(WORDS)} shop {i}" for i in range(5_000)]
    kind = rng.integers(0, len(modalities), len(texts))
    table = Texts(
        np.arange(len(texts), dtype=np.uint64),
        [modalities[k] for k in kind],
        [text.split()[0] for text in texts],
        texts,
    )
    counts = np.clip(np.exp(rng.normal(np.log(80), 1.0, users)), 1, 5_000).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    now = 20_000 * DAY
    time = np.concatenate([np.sort(now - rng.integers(1, 90 * DAY, count)) for count in counts])
    # half of a user's events are of the few texts that it comes back to
    tastes = np.concatenate([rng.choice(rng.integers(0, len(texts), 20), count) for count in counts])
    text = np.where(rng.random(len(time)) < 0.5, tastes, rng.integers(0, len(texts), len(time)))
    value = np.where(rng.random(len(time)) < 0.5, np.nan, rng.normal(0, 50, len(time))).astype(np.float32)
    ids = np.array([f"u{i}" for i in range(users)], object)
    as_of = np.full(users, now)
    return Profiles(
        ids, as_of, offsets, time, kind[text].astype(np.uint8), text.astype(np.int32), value, modalities, table
    )


WORDS = [
    "coffee",
    "lunch",
    "book",
    "train",
    "hotel",
    "phone",
    "shoes",
    "rent",
    "metro",
    "concert",
    "game",
    "film",
    "loan",
]


def half_billion(options: argparse.Namespace) -> Any:
    shape = QWEN_05B | ({"num_hidden_layers": 2} if options.quick else {})
    with torch.device(options.device):
        return backbones.random_like(shape, backbones.compute_dtype()).eval()


def towers_of(backbone: Any, options: argparse.Namespace, authors: bool = False) -> Towers:
    """The 0.5B shape over a frozen sentence encoder's table, or over the authors' slots."""
    device, modalities = torch.device(options.device), tuple(SLOTS)
    tokenizer = backbones.train_tokenizer(QUERIES, 1_000)
    kind = AuthorsTowers if authors else Towers
    towers = kind(backbone, tokenizer, Remembered(device), modalities, seeded=False, named=False)
    if authors:
        token_TL = torch.randint(0, 30_000, (5_000, TEXT_TOKENS), device=device)
        mask_TL = torch.ones_like(token_TL, dtype=torch.bool)
        reader = bert(2 if options.quick else 12, device)
        towers.hierarchy = FixedSlots(modalities, towers.width, reader, token_TL, mask_TL)
    towers.settings = {"modalities": list(modalities), "events": [24] * len(modalities)}
    return towers.to(device).eval()


# -- measuring -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def one_pass(backbone: Any, options: argparse.Namespace) -> dict[str, float]:
    """Row 1: seconds and FLOPs of one packed pass over ten scenarios and over one."""
    towers, users = towers_of(backbone, options), 8 if options.device == "cuda" else 1
    device, dtype, width = towers.device, towers.dtype, towers.width
    token_BPD = torch.randn(users, PREFIX, width, device=device)
    mask_BP = torch.ones(users, PREFIX, dtype=torch.bool, device=device)
    prefix = Prefix(token_BPD, mask_BP, *[token_BPD.new_zeros(len(token_BPD), 0)] * 3)

    def read(scenarios: int) -> Tensor:
        suffix_BNSD = torch.ones(users, scenarios, SUFFIX, width, device=device, dtype=dtype)
        suffixes = Suffixes(suffix_BNSD[:1, :, :-1], suffix_BNSD[:, :, -1:], suffix_BNSD[..., 0].bool())
        state_BN1D = towers.read(prefix, suffixes, slice(-1, None))
        settle(device)
        return state_BN1D

    flops, seconds, rates = {}, {1: [], SCENARIOS: []}, []
    for scenarios in seconds:
        with FlopCounterMode(display=False) as counter:
            read(scenarios)
        flops[scenarios] = counter.get_total_flops()
    for _ in range(options.repeats):
        matmul_rate.cache_clear()
        rates.append(matmul_rate(device, dtype))
        for scenarios, each in seconds.items():
            each.append(timed(lambda scenarios=scenarios: read(scenarios))[0])
    one, ten = (statistics.median(seconds[scenarios]) for scenarios in (1, SCENARIOS))
    ratio = flops[SCENARIOS] / flops[1]
    return {
        "users": users,
        "seconds_1": one,
        "seconds_10": ten,
        "gflop_1": flops[1] / 1e9,
        "gflop_10": flops[SCENARIOS] / 1e9,
        "cost_ratio": ten / one,
        "flop_ratio": ratio,
        "cost_of_flop_ratio": ten / one / ratio,
        "gain": SCENARIOS * one / ten,
        "gain_of_bound": SCENARIOS * one / ten / (SCENARIOS / ratio),
        "gflops": flops[SCENARIOS] / ten / 1e9,
        "gflops_of_squares": statistics.median(rates) / 1e9,
        "of_matmul_rate": flops[SCENARIOS] / ten / statistics.median(rates),
    }


def against_the_authors(backbone: Any, options: argparse.Namespace) -> dict[str, float]:
    """Row 2: seconds a user, the mean over thirds of the users by length."""
    ours, theirs = QAnchor(towers_of(backbone, options)), QAnchor(towers_of(backbone, options, authors=True))
    profiles = population(2_000)
    tokens = prefix_tokens(profiles, kept_events(ours.towers))
    order = np.argsort(tokens, kind="stable")
    seconds: dict[str, list[float]] = {"ours, 1": [], "ours, 10": [], "authors', 1": []}
    for third in (order[len(order) * k // 6] for k in (1, 3, 5)):
        bucket = -(-tokens[third] // engine.BUCKET)
        alike = np.flatnonzero(-(-tokens // engine.BUCKET) == bucket)
        for name, queries in (("ours, 1", QUERIES[:1]), ("ours, 10", QUERIES)):
            # as in a job of many: batches that are full
            length = bucket * engine.BUCKET + len(queries) * (ours.towers.tokens(QUERIES, "left").id_RL.shape[1] + 7)
            some = profiles.take(np.resize(alike, ours._room(int(length))))
            seconds[name].append(timed(lambda s=some, q=queries: ours.embed(s, queries=q))[0] / len(some))
        some = profiles.take(alike[: 16 if options.device == "cuda" else 2])
        seconds["authors', 1"].append(timed(lambda s=some: read_by_authors(theirs, s))[0] / len(some))
        print(f"a third of the users: {tokens[third]} tokens", file=sys.stderr)
    mean = {name: statistics.fmean(each) for name, each in seconds.items()}
    return {
        "events_a_user": float(profiles.counts.mean()),
        "tokens_a_user": float(tokens.mean()),
        "users_per_second_1": 1 / mean["ours, 1"],
        "users_per_second_10": 1 / mean["ours, 10"],
        "authors_users_per_second_1": 1 / mean["authors', 1"],
        "authors_users_per_second_10": 0.1 / mean["authors', 1"],
        "times_the_authors_1": mean["authors', 1"] / mean["ours, 1"],
        "times_the_authors_10": 10 * mean["authors', 1"] / mean["ours, 10"],
    }


@torch.inference_mode()
def read_by_authors(model: QAnchor, profiles: Profiles) -> Tensor:
    """One scenario, without the engine's batches: the slots are padding enough."""
    towers, rows = model.towers, np.arange(len(profiles))
    indexed = towers.text_encoder.index(profiles.texts.text)
    with autocast(towers):
        prefix = towers.prefix(engine.collate(profiles, rows, kept_events(towers)), indexed)
        out = towers.anchor(prefix, towers.tokens(QUERIES[:1], "left"), torch.zeros(1, 1, dtype=torch.long))
    settle(towers.device)
    return out


def embedded(options: argparse.Namespace) -> dict[str, float]:
    """Row 3: users a second of the model that ships, and the floor of the same batches."""
    model = QAnchor.from_pretrained("qanchor-small")
    model.towers.to(options.device)
    profiles = population(200 if options.quick else options.users)
    # the counter takes operations apart, which in inference mode leaves autocast behind
    with mock.patch.object(torch, "inference_mode", torch.no_grad), FlopCounterMode(display=False) as counter:
        model.embed(profiles.take(np.arange(len(profiles) // 4)), queries=QUERIES)
    gflop = counter.get_total_flops() / (len(profiles) // 4) / 1e9
    width, inner = model.towers.width, model.towers.backbone.config.intermediate_size
    runs = []
    for _ in range(options.repeats):
        rate = product_rate(8_192, width, inner, model.towers.dtype, model.towers.device)
        runs.append((timed(lambda: model.embed(profiles, queries=QUERIES))[0] / len(profiles), rate))
    seconds, rate = (statistics.median(column) for column in zip(*runs, strict=True))
    return {
        "users": len(profiles),
        "users_per_second": 1 / seconds,
        "gflop_a_user": gflop,
        "gflops_of_products": rate / 1e9,
        "floor_users_per_second": rate / gflop / 1e9,
        "of_floor": gflop * 1e9 / rate / seconds,
    }


def report(measured: dict[str, Any], options: argparse.Namespace) -> None:
    passes, users, small = measured.values()
    table = Table("measure", "measured", "beside", "aim")
    table.add_row(
        "10 scenarios / 1, prefix 700, suffix 24",
        f"{passes['cost_ratio']:.2f}x",
        f"{passes['cost_of_flop_ratio']:.2f} of the FLOP ratio {passes['flop_ratio']:.2f}",
        "at most 1.15",
    )
    table.add_row(
        "one pass against plain, 10 scenarios",
        f"{passes['gain']:.1f}x",
        f"{passes['gain_of_bound']:.0%} of the bound",
        "98%",
    )
    table.add_row(
        "of the matmul rate, 0.5B",
        f"{passes['of_matmul_rate']:.0%}",
        f"{passes['gflops']:,.0f} GFLOP/s",
        "70% (GPU 60%)",
    )
    for n in (1, SCENARIOS):
        table.add_row(
            f"users a second, 0.5B, {n} scenario{'s' * (n > 1)}",
            f"{users[f'users_per_second_{n}']:.2f}",
            f"{users[f'times_the_authors_{n}']:.1f}x the authors' {users[f'authors_users_per_second_{n}']:.3f}",
            "20x",
        )
    table.add_row(
        "users a second, embedded, 10 scenarios",
        f"{small['users_per_second']:,.0f}",
        f"{small['of_floor']:.0%} of the floor {small['floor_users_per_second']:,.0f}",
        "",
    )
    console = Console(width=130)
    console.print(f"{cpu()}, {torch.get_num_threads()} threads")
    console.print(table)
    if options.quick:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out.exists() else {"cpu": NOT_YET, "cuda": NOT_YET}
    result = {"machine": machine(options.device), "repeats": options.repeats, **measured}
    options.out.write_text(json.dumps(known | {"targets": TARGETS, options.device: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
