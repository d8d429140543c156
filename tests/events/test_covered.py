"""Sealed files: read in parts or whole they are what was written, and nothing else opens."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import SealError
from qanchor.events import covered
from qanchor.events.cover import CLEAR
from qanchor.events.vault import Box

BOX = Box({b"k" * 8: b"d" * 32})


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(covered, "CHUNK", 64)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000])
def test_any_part_is_as_in_a_file_in_the_clear(tmp_path, size):
    data = bytes(n % 251 for n in range(size))
    path, plain = tmp_path / "day" / "scenario" / "file", io.BytesIO(data)
    covered.write(path, data, BOX)
    assert covered.read(path, BOX) == covered.whole(path, BOX).read() == data
    assert size < 8 or data[:8] not in path.read_bytes()
    with covered.opened(path, BOX) as file:
        for seek in ((0, 0), (size // 2, 0), (-min(size, 70), 2), (size // 3, 0), (5, 1), (0, 2)):
            assert file.seek(*seek) == plain.seek(*seek)
            assert file.read(80) == plain.read(80)
    covered.write(path, data, CLEAR)
    assert path.read_bytes() == covered.read(path, CLEAR) == data


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.data())
def test_no_change_cut_or_reordering_opens_and_the_file_is_named(tmp_path_factory, size, data):
    path = tmp_path_factory.mktemp("f") / "shard-0003.parquet"
    covered.write(path, bytes(size), BOX)
    whole = path.read_bytes()
    bit, cut = data.draw(st.integers(0, 8 * len(whole) - 1)), data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    first, second = slice(24, 24 + 101), slice(24 + 101, 24 + 202)
    swapped = whole[:24] + whole[second] + whole[first] + whole[second.stop :]
    for wrong in (bytes(changed), whole[:cut], whole + b"\0", *([swapped] if size >= 128 else [])):
        path.write_bytes(wrong)
        with pytest.raises(SealError, match=r"shard-0003\.parquet"):
            covered.read(path, BOX)
        with pytest.raises(SealError, match=r"shard-0003\.parquet"), covered.opened(path, BOX) as file:
            file.read()


def test_another_place_another_versions_chunk_and_a_file_in_the_clear_do_not_open(tmp_path):
    here, there = tmp_path / "as_of=1" / "a" / "shard-0000", tmp_path / "as_of=2" / "a" / "shard-0000"
    covered.write(here, bytes(128), BOX)
    old = here.read_bytes()
    covered.write(here, bytes(128), BOX)
    covered.write(there, b"", CLEAR)
    here.write_bytes(here.read_bytes()[: 24 + 101] + old[24 + 101 :])
    with pytest.raises(SealError):
        covered.read(here, BOX)
    there.write_bytes(old)
    with pytest.raises(SealError):
        covered.read(there, BOX)
    there.write_bytes(b"PAR1 and so on, and so on")
    with pytest.raises(SealError, match="is not sealed, and the config says"):
        covered.read(there, BOX)
    assert covered.read(tmp_path / "none", BOX) is None


def test_parquet_is_read_through_it_and_a_broken_chunk_is_an_error_of_ours(tmp_path):
    # larger than the 64 KB from the end in which a reader of Parquet looks for the footer
    table, sink = pa.table({"user_id": [f"u{n}" for n in range(12_000)], "n": list(range(12_000))}), io.BytesIO()
    pq.write_table(table, sink, compression="none")
    path = tmp_path / "shard-0000.parquet"
    covered.write(path, sink.getvalue(), BOX)
    with covered.opened(path, BOX) as file:
        assert pq.read_table(file).equals(table)
    broken = bytearray(path.read_bytes())
    broken[24 + 101 + 60] ^= 1
    path.write_bytes(broken)
    with covered.opened(path, BOX) as file:  # the footer is whole
        assert pq.read_schema(file) == table.schema
    with pytest.raises(SealError, match="shard-0000"), covered.opened(path, BOX) as file:
        pq.read_table(file)
