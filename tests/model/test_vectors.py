"""Vectors on disk: every text encoded once, whatever was killed, whoever else is writing."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from conftest import WORDS

from qanchor.model import vectors
from qanchor.model.vectors import Vectors

TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS[:5]]


class Reader:
    """An encoder that remembers what it was given; `dies_after` batches it is interrupted."""

    def __init__(self, dies_after: int = 1000) -> None:
        self.read: list[str] = []
        self.batches, self.dies_after = 0, dies_after

    def __call__(self, texts: list[str]) -> np.ndarray:
        if self.batches == self.dies_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.read += texts
        return np.stack([self.vector(text) for text in texts])

    @staticmethod
    def vector(text: str) -> np.ndarray:
        return np.array([len(text), *text.encode()[:3]], np.float32)


@pytest.fixture(autouse=True)
def saved_often(monkeypatch):
    monkeypatch.setattr(vectors, "SAVE_EVERY", 8)


def expected(texts: list[str]) -> np.ndarray:
    return np.stack([Reader.vector(text) for text in texts])


def test_rows_are_the_texts_in_their_order_and_equal_texts_are_one(tmp_path):
    reader, texts, told = Reader(), [*TEXTS, *TEXTS[::-3]], []
    table = Vectors(tmp_path, 4).table(texts, reader, told.append)
    assert sorted(reader.read) == sorted(TEXTS)
    assert len(table) == len(texts)
    assert sum(told) == len(TEXTS)
    assert isinstance(table.vector_NW, np.memmap)
    rows = np.array([70, 3, 3, 0])
    np.testing.assert_array_equal(table.take(rows), expected([texts[i] for i in rows]))
    np.testing.assert_array_equal(table.take(np.arange(len(texts))), expected(texts))


def test_the_next_run_and_the_next_day_read_only_what_is_new(tmp_path):
    first, second, third = Reader(), Reader(), Reader()
    before = Vectors(tmp_path, 4).table(TEXTS[:40], first)
    Vectors(tmp_path, 4).table(TEXTS[39::-1], second)
    table = Vectors(tmp_path, 4).table(TEXTS[20:], third)
    assert second.read == []
    assert sorted(third.read) == sorted(TEXTS[40:])
    np.testing.assert_array_equal(table.take(np.arange(40)), expected(TEXTS[20:]))
    np.testing.assert_array_equal(before.take(np.arange(40)), expected(TEXTS[:40]))  # an open table stays what it was


def test_killed_in_the_middle_and_resumed(tmp_path):
    first, second = Reader(dies_after=3), Reader()
    with pytest.raises(KeyboardInterrupt):
        Vectors(tmp_path, 4).table(TEXTS, first)
    with (tmp_path / "vectors.f16").open("ab") as file:
        file.write(b"vectors without ids")
    with (tmp_path / "ids.u64").open("ab") as file:
        file.write(b"half")
    table = Vectors(tmp_path, 4).table(TEXTS, second)
    assert sorted(first.read + second.read) == sorted(TEXTS)
    assert len(second.read) == len(TEXTS) - 3 * 8
    np.testing.assert_array_equal(table.take(np.arange(len(TEXTS))), expected(TEXTS))


def test_two_writers_share_the_work(tmp_path):
    class Slow(Reader):
        def __call__(self, texts: list[str]) -> np.ndarray:
            time.sleep(0.01)
            return super().__call__(texts)

    readers, tables = [Slow(), Slow()], {}

    def index(i: int) -> None:
        tables[i] = Vectors(tmp_path, 4).table(TEXTS, readers[i])

    threads = [threading.Thread(target=index, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(readers[0].read + readers[1].read) == sorted(TEXTS)
    for table in tables.values():
        np.testing.assert_array_equal(table.take(np.arange(len(TEXTS))), expected(TEXTS))


def test_no_texts_are_no_rows(tmp_path):
    table = Vectors(tmp_path, 4).table([], Reader())
    assert len(table) == 0
    assert table.take(np.zeros(0, np.int64)).shape == (0, 4)
