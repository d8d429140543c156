"""QAnchor: one model, one noun. Profiles and scenarios in, anchor embeddings out (section 3.2.4).

Shapes: N users, G scenarios, B users of a batch, K prompt vectors, D width of the backbone, R answers,
O = 128.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qanchor.errors import ModelError
from qanchor.events.profiles import Profiles, Texts
from qanchor.inference import reading
from qanchor.inference.reading import Reading
from qanchor.model import persistence
from qanchor.model.batch import collate, prefix_tokens
from qanchor.model.body import KeysValues
from qanchor.model.hierarchy import Prefix
from qanchor.model.prompts import Prompts, SoftPrompt
from qanchor.model.readout import Readout
from qanchor.model.towers import Tokens, Towers
from qanchor.model.vocabulary import Mentions
from qanchor.training.pretrain import autocast

PREFIX_BATCH = 64
BATCH_TOKENS = {"cpu": 8_192, "cuda": 65_536}
"""Tokens of a batch, padding included: what bounds memory, whatever the users' lengths. On a CPU what is computed
between two products should stay in its cache."""
BUCKET = 16
"""Prefixes are padded to a multiple of so many columns, and batches have a multiple of so many users."""


class QAnchor:
    """A model with its tuned scenarios.

    Example:
        model = QAnchor.from_pretrained("runs/demo/model")
        model.embed(profiles, queries=["Will this user book a hotel?"])   # [users, 1, 128]
        read = model.read(profiles)                                       # once, and later, any questions:
        model.ask(read, queries=["Will this user buy coffee?"])           # [users, 1, 128]
        model.answers(["A few times, from early on: books a hotel."])     # [1, 128], in the users' space
    """

    def __init__(self, towers: Towers, prompts: Mapping[str, SoftPrompt] | None = None) -> None:
        self.towers = towers.eval()
        self.prompts = dict(prompts or {})

    @classmethod
    def from_pretrained(cls, folder: str | Path, vectors: Path | None = None) -> QAnchor:
        """Load a saved model with its soft prompts; `qanchor-small` is the one that ships with the package.

        `vectors` is where a frozen text encoder keeps what it has read; left out, nowhere. Raises ModelError when the
        folder holds no model, or a prompt of another.
        """
        folder = persistence.find(folder)
        towers = persistence.load(folder, vectors)
        fingerprint = persistence.fingerprint(towers)
        paths = sorted((folder / "prompts").glob("*.safetensors"))
        return cls(towers, {path.stem: SoftPrompt.load(path, fingerprint) for path in paths})

    def save_pretrained(self, folder: str | Path, card: str = "") -> None:
        """Write model, prompts and card: safetensors and JSON only."""
        persistence.save(self.towers, Path(folder), card)
        for name, prompt in self.prompts.items():
            prompt.save(Path(folder) / "prompts" / f"{name}.safetensors")

    def written_along(self, scenario: str | None) -> npt.NDArray[np.float32]:
        """[R, O] the directions that a scenario's readout writes along; none where it, or a free question, has none."""
        prompt = self.prompts.get(scenario) if scenario else None
        readout = prompt.readout if prompt else Readout.none()
        along_RO: npt.NDArray[np.float32] = readout.along(self.towers.dim).numpy()
        return along_RO

    def embed(
        self,
        profiles: Profiles,
        scenarios: Sequence[str] = (),
        queries: Sequence[str] = (),
        path: Literal["packed", "cached", "plain"] = "packed",
        progress: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float32]:
        """[N, G, O] unit-length embeddings: first the tuned `scenarios`, then free `queries` with the shared prompt.

        `packed` reads each user once, all suffixes behind one prefix; `cached` keeps the prefix's keys and values and
        reads the suffixes over them; `plain` reads prefix and suffix anew for every scenario. Equal to rounding.

        Raises:
            ModelError: a scenario without a soft prompt, or profiles of other modalities.
        """
        self._expect(profiles.modalities)
        tokens, prompts = self._suffixes(scenarios, queries)
        profiles = _with_own_texts(profiles)
        out = np.empty((len(profiles), len(prompts), self.towers.dim), np.float32)
        suffixes = len(prompts) * _columns(tokens, prompts)
        with torch.inference_mode():
            indexed = self._texts(profiles)
            mentions = persistence.vocabulary(self.towers).mentions(profiles.texts)
            for rows, columns in self._batches(profiles, suffixes):
                # as many users as the shape has room for: repeats of these, whose result is dropped
                filled = np.resize(rows, self._room(columns + suffixes))
                part = self._embed(profiles, filled, columns, indexed, mentions, tokens, prompts, path)
                out[rows] = part[: len(rows)].float().cpu().numpy()
                if progress:
                    progress(len(rows))
        return out

    def read(self, profiles: Profiles) -> list[Reading]:
        """Each user read once, to be asked later by `ask`: online, another question then costs its suffix only.

        Raises:
            ModelError: profiles of other modalities.
        """
        self._expect(profiles.modalities)
        found: list[Reading] = []
        with torch.inference_mode():
            for prefix in self._prefixes(profiles):
                with autocast(self.towers):
                    found += reading.read(self.towers, prefix)
        return found

    def ask(
        self, readings: Sequence[Reading], scenarios: Sequence[str] = (), queries: Sequence[str] = ()
    ) -> npt.NDArray[np.float32]:
        """[N, G, O] of users who were read, as `embed` gives them, to rounding. Raises ModelError as `embed`."""
        tokens, prompts = self._suffixes(scenarios, queries)
        suffixes = len(prompts) * _columns(tokens, prompts)
        query_1G = torch.arange(len(prompts), device=self.towers.device)[None]
        out = np.empty((len(readings), len(prompts), self.towers.dim), np.float32)
        order = sorted(range(len(readings)), key=lambda n: -len(readings[n]))
        with torch.inference_mode(), autocast(self.towers):
            while order:
                room = self._room(len(readings[order[0]]) + suffixes)
                rows, order = order[:room], order[room:]
                part = reading.batch([readings[n] for n in rows])
                anchor_BGO = self.towers.anchor(part.prefix, tokens, query_1G, prompts, part.layers, part.contents)
                out[rows] = anchor_BGO.float().cpu().numpy()
        return out

    def answers(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """[R, O] unit-length embeddings of answers, by the semantic tower, in the users' space."""
        towers = self.towers
        with torch.inference_mode(), autocast(towers):
            row_R1 = torch.arange(len(texts), device=towers.device)[:, None]
            projection_R1O = towers.answer(towers.tokens(texts, "right"), row_R1)
            embedding_R1O = towers.head(projection_R1O, "answer")
        answers_RO: npt.NDArray[np.float32] = embedding_R1O[:, 0].float().cpu().numpy()
        return answers_RO

    def prefixes(
        self, profiles: Profiles, progress: Callable[[int], None] | None = None
    ) -> Iterator[tuple[Prefix, KeysValues]]:
        """Prefixes with their keys and values, batch by batch, in the order of `profiles`: what tuning keeps."""
        for prefix in self._prefixes(profiles):
            with torch.no_grad(), autocast(self.towers):
                layers = self.towers.keys_values(prefix)
            yield prefix, layers
            if progress:
                progress(len(prefix))

    def _prefixes(self, profiles: Profiles) -> Iterator[Prefix]:
        profiles = _with_own_texts(profiles)
        indexed, kept = self._texts(profiles), persistence.kept_events(self.towers)
        mentions = persistence.vocabulary(self.towers).mentions(profiles.texts)
        for start in range(0, len(profiles), PREFIX_BATCH):
            rows = np.arange(start, min(start + PREFIX_BATCH, len(profiles)))
            with torch.no_grad(), autocast(self.towers):
                prefix = self.towers.prefix(collate(profiles, rows, kept, mentions=mentions), indexed)
            yield prefix

    @torch.no_grad()
    def _texts(self, profiles: Profiles) -> Any:
        """The text table as `Towers.prefix` takes it: each text is read once a call, not once a batch."""
        encoder = self.towers.text_encoder
        return encoder.read_all(encoder.index(profiles.texts.described))

    def _embed(
        self,
        profiles: Profiles,
        rows: npt.NDArray[np.int64],
        columns: int,
        indexed: Any,
        mentions: Mentions,
        tokens: Tokens,
        prompts: Prompts,
        path: Literal["packed", "cached", "plain"],
    ) -> Tensor:
        """[B, G, O] of one batch of users."""
        towers = self.towers
        query_1G = torch.arange(len(prompts), device=towers.device)[None]
        with autocast(towers):
            batch = collate(profiles, rows, persistence.kept_events(towers), columns, mentions)
            prefix = towers.prefix(batch, indexed)
            if path == "packed":
                return towers.anchor(prefix, tokens, query_1G, prompts)
            if path == "cached":
                return towers.anchor(prefix, tokens, query_1G, prompts, towers.keys_values(prefix))
            each = [
                towers.anchor(prefix, tokens, query_1G[:, g : g + 1], prompts.take(query_1G[:, g : g + 1]))
                for g in range(query_1G.shape[1])
            ]
            return torch.cat(each, 1)

    def _batches(self, profiles: Profiles, suffixes: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
        """Rows of all users, batch by batch, and the columns of their prefixes.

        Products of other shapes round otherwise. So that a user's embedding does not depend, to the last bit, on who
        else is embedded, its prefix has as many columns as its own length asks for, and its batch as many users as
        those columns ask for.
        """
        tokens = prefix_tokens(profiles, persistence.kept_events(self.towers))
        columns = -(-tokens // BUCKET) * BUCKET
        for width in np.unique(columns)[::-1].tolist():
            rows, size = np.flatnonzero(columns == width), self._room(width + suffixes)
            for start in range(0, len(rows), size):
                yield rows[start : start + size], width

    def _room(self, length: int) -> int:
        """Users of `length` columns that a batch holds."""
        return max(1, BATCH_TOKENS[self.towers.device.type] // (BUCKET * length)) * BUCKET

    def _suffixes(self, scenarios: Sequence[str], queries: Sequence[str]) -> tuple[Tokens, Prompts]:
        """Tokens of the questions, and their soft prompts."""
        unknown = [name for name in scenarios if name not in self.prompts]
        if unknown:
            known = ", ".join(sorted(self.prompts)) or "none"
            raise ModelError(
                f"no soft prompt for {unknown[0]!r}; tuned are: {known}. Tune it, or pass its query instead"
            )
        texts = [self.prompts[name].query for name in scenarios] + list(queries)
        if not texts:
            raise ModelError("nothing to embed for: give `scenarios` (tuned ones) or `queries` (plain questions)")
        own = [self.prompts[name] for name in scenarios]
        return self.towers.tokens(texts, "left"), Prompts.of([*own, *[None] * len(queries)], self.towers.prompt)

    def _expect(self, modalities: tuple[str, ...]) -> None:
        if modalities != self.towers.modalities:
            self.towers.call(modalities)


def _columns(tokens: Tokens, prompts: Prompts) -> int:
    """Of a suffix: query, soft prompt, `<USER_EMB>`."""
    return tokens.id_RL.shape[1] + prompts.prompt_BNKD.shape[2] + 1


def _with_own_texts(profiles: Profiles) -> Profiles:
    """The same over a text table of no other texts than theirs: few users of a large store need few of its texts."""
    used, text = np.unique(profiles.text, return_inverse=True)
    table = profiles.texts
    columns = ([column[t] for t in used] for column in (table.modality, table.category, table.text))
    return replace(profiles, text=text.astype(np.int32), texts=Texts(table.ids[used], *columns))
