"""Stages of a run: each shows progress, is timed, and is skipped when its inputs have not changed.

Under `torchrun` rank 0 works and the others wait for it, but for the stages that all ranks do together.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from qanchor import storage
from qanchor.storage import Place, Stamp
from qanchor.training.ranks import join


class Advance(Protocol):
    def __call__(self, done: float, note: str = "") -> None:
        """Told of units done since it was told last, and a note ("loss 3.21")."""


class Stages:
    """The stages of one run folder. What a stage was made from is kept in `stages/NAME.json` beside its seconds."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.ranks = folder, join()
        self.console = console if self.ranks.first else Console(quiet=True)
        self.digests: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def run(
        self,
        name: str,
        inputs: dict[str, Any],
        after: tuple[str, ...],
        work: Callable[[str], None],
        by_all: bool = False,
    ) -> None:
        """Run `work(digest)` unless the stage is up to date: same inputs, and the stages `after` unchanged.

        A stage that is interrupted leaves no stamp, so that a rerun goes on with it. `by_all` ranks, or by the first.
        """
        upstream = {stage: self.digests[stage] for stage in after}
        digest = hashlib.sha256(json.dumps([inputs, upstream], sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.digests[name] = digest
        path = self.folder / "stages" / f"{name}.json"
        stamp = json.loads(path.read_text()) if path.exists() else {}
        self.ranks.wait()  # until all have looked whether there is work to do
        if stamp.get("digest") == digest:
            self.seconds[name] = stamp["seconds"]
            self.console.print(f"[dim]{name}: up to date[/]")
            return
        start = time.perf_counter()
        if self.ranks.first:
            path.unlink(missing_ok=True)
        if self.ranks.first or by_all:
            work(digest)
        self.seconds[name] = round(time.perf_counter() - start, 1)
        if self.ranks.first:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".tmp")
            fresh.write_text(json.dumps({"digest": digest, "seconds": self.seconds[name]}))
            os.replace(fresh, path)
        self.ranks.wait()
        self.console.print(f"[bold]{name}[/]: {self.seconds[name]:.1f} s")

    @contextmanager
    def progress(self, name: str, total: int | None) -> Iterator[Advance]:
        """A bar on a terminal; elsewhere a plain line whenever another tenth is done."""
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
            with Progress(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=True
            ) as bar:
                task = bar.add_task(name, total=total, note="")

                def move(done: float, note: str = "") -> None:
                    bar.update(task, advance=done, note=note)

                yield move
            return
        so_far, shown = 0.0, 0

        def advance(done: float, note: str = "") -> None:
            nonlocal so_far, shown
            so_far += done
            if total and so_far * 10 // total > shown:
                shown = int(so_far * 10 // total)
                self.console.print(f"  {name} {round(so_far, 1):,g}/{total:,} {note}")

        yield advance


def listing(paths: Iterable[Place]) -> list[tuple[int | str, ...]]:
    """What tells whether files have changed without reading them: name, bytes, time of the last change or tag."""
    return listed([(path, storage.stamp(path)) for path in paths if path.is_file()])


def listed(files: Iterable[tuple[Place, Stamp]]) -> list[tuple[int | str, ...]]:
    """The same of files that a store has listed already."""
    return [(str(path), *stamp.values()) for path, stamp in sorted(files, key=lambda file: tuple(file[0].parts))]
