"""Words that are counted: which, and how often."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import AS_OF, random_profiles, tiny_towers
from conftest import WORDS as OCCUR
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import ModelError
from qanchor.events.profiles import DAY, Profiles, Texts
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import AGE_DAYS, FOR_LINES, TALLY, WORD_DAYS, collate
from qanchor.model.prompts import SoftPrompt
from qanchor.model.readout import CUTS, LEAVES, Readout
from qanchor.model.text_encoder import pieces
from qanchor.model.vocabulary import LEAST, WORDS, Vocabulary

KEPT = np.array([8, 6])
KNOWN = Vocabulary((*dict.fromkeys(OCCUR), "0", "17", "never"))


def saying(*users: list[str]) -> Profiles:
    """Users who did these things, one a day until the day before `as_of`."""
    texts = list(dict.fromkeys(text for said in users for text in said))
    table = Texts(np.arange(len(texts), dtype=np.uint64), ["bill"] * len(texts), ["bill"] * len(texts), texts)
    counts = [len(said) for said in users]
    return Profiles(
        np.array([f"u{n}" for n in range(len(users))], object),
        np.full(len(users), AS_OF),
        np.cumsum([0, *counts]),
        np.concatenate([np.zeros(0, np.int64), *(AS_OF - DAY * np.arange(count, 0, -1) for count in counts)]),
        np.zeros(sum(counts), np.uint8),
        np.array([texts.index(text) for said in users for text in said], np.int32),
        np.full(sum(counts), np.nan, np.float32),
        ("bill", "mini"),
        table,
    )


def slowly(profiles: Profiles, vocabulary: Vocabulary) -> np.ndarray:
    """[2, B, WORDS] event by event: as forests look at them, as lines do."""
    found = np.zeros((2, len(profiles), WORDS))
    for event, owner in enumerate(profiles.owner):
        days = (profiles.as_of[owner] - profiles.time[event]) / DAY
        reached = max((int(edge) for edge in AGE_DAYS if days >= edge), default=0)
        for word in set(pieces(profiles.texts.described[profiles.text[event]])) & set(vocabulary.words):
            found[:, owner, vocabulary.words.index(word)] += 0.5 ** (reached / WORD_DAYS), 1
    return np.log1p(found)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_words_are_counted_event_by_event_each_once_older_ones_for_less(seed: int, mean: int):
    profiles = random_profiles(6, seed, mean)
    tally_BW = collate(profiles, np.arange(6), KEPT, mentions=KNOWN.mentions(profiles.texts)).tally_BW
    for found, expected in zip((tally_BW[:, :WORDS], tally_BW[:, -WORDS:]), slowly(profiles, KNOWN), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_chosen_are_the_words_that_part_users_and_none_that_all_or_nobody_says():
    tenant, shopper, eater = ["pays the shop", "pays rent"], ["pays the shop"], ["pays the baker"]
    many = [tenant] * 2 * LEAST + [shopper] * LEAST + [eater] * LEAST
    assert Vocabulary.of(saying(*many)).words == ("shop", "rent", "baker")
    assert Vocabulary.of(saying(*many[:-1])).words == ("shop", "rent"), "a word that few say may be somebody's name"
    assert Vocabulary.of(saying(*[["pays"], ["pays pays"]] * LEAST)).words == ()
    assert Vocabulary.of(saying()).words == ()


def test_of_more_words_than_there_is_room_for_those_stay_that_part_users_best():
    often = [f"often{n}" for n in range(WORDS)]
    seldom = [f"seldom{n}" for n in range(50)]
    users = [[*seldom, *often]] * LEAST + [often] * LEAST + [["nothing"]] * 4 * LEAST
    assert set(Vocabulary.of(saying(*users)).words) == {*often}


def test_chinese_has_words_too():
    vocabulary = Vocabulary.of(saying(*[["蓝鲸外卖"], ["蓝鲸影城"]] * LEAST))
    assert {"外卖", "影城"} <= set(vocabulary.words)
    assert "蓝鲸" not in vocabulary.words


def test_a_table_of_other_texts_gives_the_same_counts():
    """Serving knows a user's texts alone, a bench those of a whole store."""
    profiles = random_profiles(5)
    order = np.random.default_rng(0).permutation(len(profiles.texts))
    columns = ([getattr(profiles.texts, name)[t] for t in order] for name in ("modality", "category", "text"))
    shuffled = replace(
        profiles,
        texts=Texts(profiles.texts.ids[order], *columns),
        text=np.argsort(order)[profiles.text].astype(np.int32),
    )
    one, other = (collate(p, np.arange(5), KEPT, mentions=KNOWN.mentions(p.texts)) for p in (profiles, shuffled))
    torch.testing.assert_close(one.tally_BW[:, :WORDS], other.tally_BW[:, :WORDS])


def on_a_word(word: int) -> Readout:
    """Says 1 of users whose events say the word, else -1."""
    feature, threshold = torch.full((1, 1, CUTS), word), torch.zeros(1, 1, CUTS)
    leaf = torch.where(torch.arange(LEAVES) < LEAVES // 2, -1.0, 1.0).expand(1, 1, -1)
    return Readout(torch.zeros(3, 0), feature, threshold, leaf)


def test_a_model_counts_its_words_in_every_way_to_read_a_user_and_refuses_prompts_of_other_words(tmp_path):
    towers, profiles = tiny_towers(), random_profiles(12)
    persistence.teach(towers, KNOWN)
    fingerprint, readout = persistence.fingerprint(towers), on_a_word(3)
    wide = replace(readout, line_RV=torch.zeros(3, TALLY - FOR_LINES.start + sum(towers.own)))
    prompt = SoftPrompt("coffee", "coffee?", towers.prompt.detach(), torch.ones(2, 16), fingerprint, readout=wide)
    QAnchor(towers, {"coffee": prompt}).save_pretrained(tmp_path / "model")

    model = QAnchor.from_pretrained(tmp_path / "model")
    along_RO = model.written_along("coffee")
    says = collate(profiles, np.arange(12), KEPT, mentions=KNOWN.mentions(profiles.texts)).tally_BW[:, 3] > 0
    assert 0 < says.sum() < 12
    found = [model.embed(profiles, ["coffee"], path=path) for path in ("packed", "cached", "plain")]
    for embedding_BGO in [*found, model.ask(model.read(profiles), ["coffee"])]:
        assert ((embedding_BGO[:, 0] @ along_RO[1] > 0) == says.numpy()).all()

    persistence.teach(towers, Vocabulary(KNOWN.words[::-1]))
    persistence.save_settings(towers, tmp_path / "model")
    with pytest.raises(ModelError, match="tune the scenario again"):
        QAnchor.from_pretrained(tmp_path / "model")
