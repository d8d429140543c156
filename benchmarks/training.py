"""How fast a pretraining step is: `python benchmarks/training.py [--run runs/demo] [--device cuda]`, a table and JSON.

RUN is a run folder of the simulated wallet with raw/ and store/ (`qanchor demo` makes one); UserU is built anew of some
of its training users. Contestants take turns, `--repeats` times; each number is the median.

1. The embedded default's step, 64 users of 4 pairs, in both phases, against its *floor*: the FLOPs of the packed work,
   without padding, at the rate of products of the model's own sizes, measured between the steps. Target 60% on a CPU.
2. The authors' layout on the same backbone, by the same losses and optimiser: 710 fixed slots a user, each event's text
   read anew at every step by an encoder of BERT's size, one pair a prefix. It is treated kindly: the encoder is frozen
   and without gradient, empty slots hold zeros that it never reads, the tabular slots are one text copied, texts are
   tokenised beforehand. `texts once` is that layout with a table in the encoder's place, which tells the share of the
   slots in the ratio from that of the texts. Target: 10 times as many pairs a second.
3. The shape of Qwen2.5-0.5B, random weights, LoRA r=64, as `recipe: paper-0.5b` has it: FLOPs against the rate of large
   square products (MFU). On a CPU a tiny batch; on a GPU 2,048 pairs by gradient caching, target 45%.
4. Gradient caching: peak memory (fresh processes) and seconds of a step with and without `chunk`, and both losses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import (
    NOT_YET,
    QWEN_05B,
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

from qanchor.config import Lora, Model, Pretrain
from qanchor.model import backbone as backbones
from qanchor.model import persistence
from qanchor.model.towers import Towers
from qanchor.pipeline import Project
from qanchor.training.corpus import Corpus
from qanchor.training.masters import Masters
from qanchor.training.objective import Objective
from qanchor.training.pairs import PairBatch, Pairs
from qanchor.training.ranks import ALONE
from qanchor.training.speed import matmul_rate, settle
from qanchor.useru import build, dataset

TARGETS = {"of floor": 0.6, "times the authors' pairs": 10, "mfu on a GPU": 0.45}
CHUNK = 8_192
"""Tokens of a forward pass, as `recipe: paper-0.5b` has it."""
NOTES = (
    "Where an open step of the embedded default goes (torch.profiler, one thread, 64 users of 4 pairs): products 36%; "
    "copies and casts 15%; cross-entropy 13%, half of it since logits are made in parts; zeros for gradients 5%; the "
    "n-gram table 4%; the rest is done to each number (norms, rotary positions, masks). docs/decisions/0006-speed.md.",
    "A quarter to a third of the columns of a batch is padding, which the floor leaves out: `chunk` sorts users by "
    "length and wins some of it back. The 60% were reached by a prototype with a fused body of 3 layers of 512; the "
    "row `3 x 512` is the library's module at that size.",
)
"""Of the CPU; by hand."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--run", type=Path, default=Path("runs/demo"))
    arguments.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments.add_argument("--users", type=int, default=2_000, help="training users, as (user, as_of)")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--steps", type=int, default=10, help="of the embedded default, in each repeat and phase")
    arguments.add_argument("--compile", action="store_true", help="the open phase also with compiled layers")
    arguments.add_argument("--quick", action="store_true", help="does it run? small models, nothing is written")
    arguments.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training.json")
    arguments.add_argument("--useru", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--peak", type=int, nargs=2, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.quick:
        options.users, options.repeats, options.steps = 400, 1, 1
    if options.peak:
        print(json.dumps(peak(Data(options), *options.peak)))
        return
    with tempfile.TemporaryDirectory(prefix="qanchor-training-") as folder:
        options.useru = Path(folder)
        data = Data(options)
        data.build_useru()
        measured = {"steps": race(data, options), "gradient caching": caching(options)}
    report(measured, data, options)


# -- data -------------------------------------------------------------------------------------------------------


class Data:
    """Some training users of a run and their UserU, in a folder that all processes of the benchmark share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.quick, self.folder = torch.device(options.device), options.quick, options.useru
        self.project = Project.open(options.run / "raw" / "qanchor.yaml", options.run, Console(stderr=True))
        self.config = self.project.config
        self.keys = self.project.requests[self.project.rows("train")[: options.users]]
        self.profiles = self.project.store.profiles(self.keys)

    def build_useru(self) -> None:
        future = self.project.store.futures(self.keys, self.config.windows.predict_days)
        build.build(self.config, self.profiles, future, self.folder, self.project.stages.progress)

    def embedded(self, **size: int) -> Towers:
        """The embedded default, or a body of another size."""
        frame = dataset.read(self.folder, ("query", "answer"))
        torch.manual_seed(0)
        config = self.config.model_copy(update={"model": Model(**size)})
        return persistence.build(config, sorted({*frame["query"], *frame["answer"]})).to(self.device).train()

    def objective(self, towers: Towers, settings: Pretrain) -> Objective:
        pairs = Pairs(dataset.scan(self.folder), self.keys, self.profiles)
        kept = np.array([self.config.modality(name).events for name in self.profiles.modalities], np.int64)
        texts = towers.text_encoder.index(self.profiles.texts.described)
        return Objective(towers, Corpus.of(towers, self.profiles, pairs, kept, texts), settings, ALONE)

    def text_tokens(self, tokenizer: Any) -> tuple[Tensor, Tensor]:
        """[T, 16] ids of every text of the store, and their mask."""
        ids = [row[:TEXT_TOKENS] for row in tokenizer(self.profiles.texts.described).input_ids]
        mask_TL = torch.arange(TEXT_TOKENS) < torch.tensor([len(row) for row in ids])[:, None]
        id_TL = torch.zeros(mask_TL.shape, dtype=torch.long)
        id_TL[mask_TL] = torch.tensor([*itertools.chain.from_iterable(ids)])
        return id_TL.to(self.device), mask_TL.to(self.device)


def draw(corpus: Corpus, users: int, questions: int, seed: int) -> PairBatch:
    """So many users, of more than one cohort where one has fewer: that changes the loss, and no time."""
    rng, parts = np.random.default_rng(seed), []
    while sum(len(part.place_L) for part in parts) < users:
        part = corpus.pairs.draw(rng, users, questions)
        parts += [part] if part.topic_BN.shape[1] == questions else []
    columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts])[:users] for f in fields(PairBatch)}
    return PairBatch(**{**columns, "place_L": np.arange(users)})


# -- contestants ------------------------------------------------------------------------------------------------


def authors(data: Data, ours: Towers, body: Callable[[], Any], encoder: bool) -> Towers:
    modalities, (token_TL, mask_TL) = data.profiles.modalities, data.text_tokens(ours.tokenizer)
    reader = bert(2 if data.quick else 12, data.device) if encoder else None
    towers = AuthorsTowers(body(), ours.tokenizer, Remembered(data.device), modalities, seeded=False, named=False)
    towers.hierarchy = FixedSlots(modalities, towers.width, reader, token_TL, mask_TL)
    return towers.to(data.device).train()


def qwen(data: Data) -> Any:
    """Half a billion random weights, LoRA on all projections."""
    shape = QWEN_05B | ({"num_hidden_layers": 2} if data.quick else {})
    with torch.device(data.device):
        model = backbones.random_like(shape, backbones.compute_dtype())
    return backbones.with_lora(model, Lora(), "CAUSAL_LM")


def qwen_towers(data: Data, ours: Towers) -> Towers:
    modalities = data.profiles.modalities
    return Towers(qwen(data), ours.tokenizer, Remembered(data.device), modalities, seeded=False).to(data.device).train()


# -- measuring --------------------------------------------------------------------------------------------------


class Contestant:
    """A model in training: the step of `Pretraining`, without its log."""

    def __init__(self, objective: Objective, users: int, questions: int, steps: int, bypass: bool = False) -> None:
        self.objective, self.users, self.questions, self.bypass = objective, users, questions, bypass
        self.steps = steps
        self.masters = Masters(objective.towers)
        self.optimiser = torch.optim.AdamW(self.masters.parameters, lr=1e-4, fused=True)
        first = draw(objective.corpus, users, questions, 0)
        chunks = objective.chunks(first)
        self.flops = objective.flops(first, bypass)
        """Of a column, padding included."""
        self.columns, self.rows = sum(chunk.columns for chunk in chunks), chunks[0].columns
        for seed in range(min(2, steps)):
            self.step(seed)

    def step(self, seed: int) -> int:
        """The tokens read; the same batch for the same seed."""
        drawn = draw(self.objective.corpus, self.users, self.questions, seed)
        measured = self.objective.backward(drawn, self.bypass, not self.bypass, self.masters, 0)
        torch.nn.utils.clip_grad_norm_(self.masters.parameters, 1.0)
        self.optimiser.step()
        self.masters.publish()
        settle(self.objective.towers.device)
        return measured.tokens

    def run(self) -> dict[str, float]:
        """The steps of one repeat, between two looks at what products cost."""
        towers, before = self.objective.towers, self._rate()
        peak_mib(towers.device)
        busy = time.process_time()
        seconds, tokens = timed(lambda: sum(self.step(seed) for seed in range(self.steps)) / self.steps)
        busy, seconds = (time.process_time() - busy) / self.steps, seconds / self.steps
        matmul_rate.cache_clear()
        rate, square = (before + self._rate()) / 2, matmul_rate(towers.device, towers.dtype)
        pairs, done, packed = self.users * self.questions, self.flops * self.columns, self.flops * tokens
        result = {
            "pairs": pairs,
            "seconds": seconds,
            "cpu_seconds": busy,
            "pairs_per_second": pairs / seconds,
            "gflop_per_pair": done / pairs / 1e9,
            "gflops": done / seconds / 1e9,
            "gflops_of_products": rate / 1e9,
            "gflops_of_squares": square / 1e9,
        }
        if towers.device.type == "cuda":  # the weights of all contestants are among it
            result["peak_mib"] = peak_mib(towers.device)
        if isinstance(towers, AuthorsTowers):  # its columns are others than those that the corpus counts
            corpus = self.objective.corpus.profiles
            text_tokens = towers.hierarchy.mask_TL.sum(1).cpu().numpy()[corpus.text].mean()
            return result | {"events_a_user": float(corpus.counts.mean()), "tokens_a_text": float(text_tokens)}
        return result | {
            "tokens": tokens,
            "tokens_per_second": tokens / seconds,
            "padding": 1 - tokens / self.columns,
            "floor_seconds": packed / rate,
            "of_floor": packed / rate / seconds,
            "mfu": packed / square / seconds,
        }

    def _rate(self) -> float:
        towers = self.objective.towers
        inner = towers.backbone.config.intermediate_size
        return product_rate(self.rows, towers.width, inner, towers.dtype, towers.device)


def race(data: Data, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """name -> what a step of it measures, the median of repeats in which all take turns."""
    contestants = {}
    for name, start in field(data, options):
        try:
            seconds, contestants[name] = timed(start)
            print(f"{name}: ready after {seconds:.0f} s", file=sys.stderr)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            print(f"{name}: more than this GPU's memory, left out", file=sys.stderr)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for repeat in range(options.repeats):
        print(f"repeat {repeat + 1} of {options.repeats}", file=sys.stderr)
        for name, contestant in contestants.items():
            runs[name].append(contestant.run())
    for backbone in ("embedded", "0.5b"):
        theirs = [run["pairs_per_second"] for run in runs.get(f"{backbone}, authors' layout", [])]
        for name in runs if theirs else ():
            if name.startswith(backbone) and "align" not in name and " x " not in name:
                for run, pairs_per_second in zip(runs[name], theirs, strict=True):
                    run["times_the_authors"] = run["pairs_per_second"] / pairs_per_second
    return {name: {key: statistics.median(run[key] for run in each) for key in each[0]} for name, each in runs.items()}


def field(data: Data, options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Contestant]]]:
    """Who takes part: names, and how each is made ready."""
    gpu, ours, plain = data.device.type == "cuda", data.embedded(), Pretrain()

    def trained(towers: Towers, settings: Pretrain, users: int, questions: int, steps: int) -> Contestant:
        return Contestant(data.objective(towers, settings), users, questions, steps)

    users, objective = 512 if gpu else 16 if data.quick else plain.batch, data.objective(ours, plain)
    yield "embedded, align", lambda: Contestant(objective, users, 4, options.steps, bypass=True)
    yield "embedded, open", lambda: Contestant(objective, users, 4, options.steps)
    if options.compile:
        yield "embedded, open, compiled", lambda: trained(compiled(data.embedded()), plain, users, 4, options.steps)
    if not data.quick:
        wide = data.embedded(hidden=512, layers=3)
        yield "embedded, 3 x 512, open", lambda: trained(wide, plain, users, 4, max(1, options.steps // 5))
    bodies = {"embedded": lambda: data.embedded().backbone} | ({"0.5b": lambda: qwen(data)} if gpu else {})
    for name, body in bodies.items():
        for kind, encoder in (("authors' layout", True), ("authors' layout, texts once", False)):
            towers = partial(authors, data, ours, body, encoder)
            yield f"{name}, {kind}", lambda towers=towers: trained(towers(), plain, 16 if gpu else 4, 1, 2)
    if not gpu:
        yield "0.5b", lambda: trained(qwen_towers(data, ours), plain, 4, 4, 1)
    for chunk in (8_192, 16_384, 32_768) if gpu else ():
        settings = Pretrain(chunk=chunk)
        yield (
            f"0.5b, chunks of {chunk:,}",
            lambda settings=settings: trained(qwen_towers(data, ours), settings, 512, 4, 1),
        )


def compiled(towers: Towers) -> Towers:
    for layer in towers.backbone.get_decoder().layers:
        layer.compile(dynamic=True)
    return towers


# -- gradient caching -------------------------------------------------------------------------------------------


def caching(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A step of 256 and of 1,024 pairs, in one pass and in chunks, each in a process of its own."""
    results = []
    for users, chunk in itertools.product((32,) if options.quick else (64, 256), (0, CHUNK)):
        command = [sys.executable, __file__, "--run", str(options.run), "--device", options.device]
        command += ["--useru", str(options.useru), "--users", str(options.users), "--peak", str(users), str(chunk)]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append({"pairs": 4 * users, "chunk": chunk or None} | json.loads(run.stdout))
    return results


def peak(data: Data, users: int, chunk: int) -> dict[str, float]:
    """Of the embedded default's loss and gradient in the open phase (`chunk` 0: in one pass): MiB above idle, too."""
    objective = data.objective(data.embedded(), Pretrain(chunk=chunk or None))
    masters = Masters(objective.towers)

    def gradient(users: int) -> float:
        measured = objective.backward(draw(objective.corpus, users, 4, 0), False, True, masters, 0)
        masters.publish()
        settle(data.device)
        return float(measured.loss)

    gradient(4)
    idle = peak_mib(data.device)
    losses = [timed(lambda: gradient(users)) for _ in range(3)]
    seconds, loss = statistics.median(each for each, _ in losses), losses[0][1]
    return {"loss": loss, "seconds": seconds, "idle_mib": idle, "peak_mib": peak_mib(data.device)}


def peak_mib(device: torch.device) -> float:
    """Peak of the memory held since this was asked last."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 2**20
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


# -- report -----------------------------------------------------------------------------------------------------


def report(measured: dict[str, Any], data: Data, options: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name() if options.device == "cuda" else cpu()
    console = Console(width=150)
    columns = {
        "pairs": "{pairs:,.0f}",
        "tokens": "{tokens:,.0f}",
        "padding": "{padding:.0%}",
        "ms": "{milliseconds:,.0f}",
        "pairs/s": "{pairs_per_second:,.1f}",
        "x authors": "{times_the_authors:.1f}",
        "tokens/s": "{tokens_per_second:,.0f}",
        "GFLOP/pair": "{gflop_per_pair:,.2f}",
        "GFLOP/s": "{gflops:,.0f}",
        "products": "{gflops_of_products:,.0f}",
        "squares": "{gflops_of_squares:,.0f}",
        "of floor": "{of_floor:.0%}",
        "MFU": "{mfu:.0%}",
    }
    table = Table("step", *columns, padding=(0, 0))
    unknown = dict.fromkeys(("tokens", "padding", "times_the_authors", "tokens_per_second", "of_floor", "mfu"), np.nan)
    for name, run in measured["steps"].items():
        shown = unknown | run | {"milliseconds": 1e3 * run["seconds"]}
        cells = (column.format(**shown) for column in columns.values())
        table.add_row(name, *("" if cell.startswith("nan") else cell for cell in cells))
    cached = Table("gradient caching: pairs", "chunk", "seconds", "peak MiB", "(idle)", "loss")
    for run in measured["gradient caching"]:
        numbers = f"{run['seconds']:.2f}", f"{run['peak_mib']:,.0f}", f"{run['idle_mib']:,.0f}", f"{run['loss']:.5f}"
        cached.add_row(f"{run['pairs']:,}", f"{run['chunk'] or 'one pass'}", *numbers)
    console.print(f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
    console.print(table, cached)
    settings = {"run": str(options.run), "users": len(data.keys), "repeats": options.repeats}
    result = {
        "machine": machine(options.device),
        **settings,
        **measured,
        "notes": NOTES if options.device == "cpu" else (),
    }
    if options.quick:
        console.print_json(json.dumps(result))
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(options.out.read_text()) if options.out.exists() else {"cpu": NOT_YET, "cuda": NOT_YET}
    options.out.write_text(json.dumps(known | {"targets": TARGETS, options.device: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
