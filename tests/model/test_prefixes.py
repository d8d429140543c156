"""Kept prefixes: the same to the bit wherever they are kept, and nothing is left of the file they were spilled to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers

from qanchor.errors import TrainingError
from qanchor.model.batch import collate
from qanchor.model.prefixes import GIB, PrefixCache

KEPT = np.array([8, 6])
ROWS = np.array([13, 3, 0, 3, 29])


def parts(users: int = 30, size: int = 10, dtype: torch.dtype = torch.float32):
    """Prefixes of `users` users, `size` at a time, their KV and tokens in `dtype`."""
    profiles, towers = random_profiles(users), tiny_towers()
    towers.backbone.to(dtype)
    indexed = towers.text_encoder.index(profiles.texts.text)
    with torch.no_grad():
        for start in range(0, users, size):
            prefix = towers.prefix(collate(profiles, np.arange(start, start + size), KEPT), indexed)
            yield dataclasses.replace(prefix, token_BPD=prefix.token_BPD.to(dtype)), towers.keys_values(prefix)


def same(one, other) -> bool:
    (prefix, layers), (prefix_2, layers_2) = one, other
    names = [field.name for field in dataclasses.fields(prefix)]
    return all(torch.equal(getattr(prefix, n), getattr(prefix_2, n)) for n in names) and all(
        torch.equal(a, b) for x, y in zip(layers, layers_2, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_and_disk_hold_the_same_bits(tmp_path, dtype):
    memory = PrefixCache(parts(dtype=dtype))
    one_part = memory.nbytes / 3 / GIB
    for limit in (0.0, one_part * 1.6, one_part * 2.6):  # spilled at once, and when the second and the third part come
        spilled = PrefixCache(parts(dtype=dtype), limit, tmp_path)
        assert (memory.place, spilled.place) == ("cpu", "disk")
        assert spilled.nbytes == memory.nbytes
        assert same(spilled.take(ROWS), memory.take(ROWS))


def test_a_selection_is_what_was_put_in(tmp_path):
    cache, (first, _, third) = PrefixCache(parts(), 0, tmp_path), parts()
    taken, layers = cache.take(np.array([29, 0]))
    for place, ((prefix, kept), row) in enumerate(((third, 9), (first, 0))):
        length = int(prefix.mask_BP[row].sum())
        assert int(taken.mask_BP[place].sum()) == length
        assert torch.equal(taken.token_BPD[place, :length], prefix.token_BPD[row, :length])
        assert torch.equal(taken.worth_BPS[place, :length], prefix.worth_BPS[row, :length])
        assert torch.equal(taken.text_BPW[place, :length], prefix.text_BPW[row, :length])
        for (key, value), (key_kept, value_kept) in zip(layers, kept, strict=True):
            assert torch.equal(key[place, :, :length], key_kept[row, :, :length])
            assert torch.equal(value[place, :, :length], value_kept[row, :, :length])
    assert not taken.worth_BPS[~taken.mask_BP].any()


def test_what_is_spilled_has_no_name_so_that_a_kill_leaves_nothing(tmp_path):
    cache = PrefixCache(parts(), 0, tmp_path / "run")
    assert cache.place == "disk"
    assert not list((tmp_path / "run").iterdir())


def test_no_users_are_refused():
    with pytest.raises(TrainingError, match="no users to keep prefixes of, expected at least one"):
        PrefixCache([])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_keeps_what_fits_and_gives_batches_whatever_the_place(tmp_path, monkeypatch):
    def on_gpu():
        for prefix, layers in parts():
            fields = {f.name: getattr(prefix, f.name).cuda() for f in dataclasses.fields(prefix)}
            yield type(prefix)(**fields), [(key.cuda(), value.cuda()) for key, value in layers]

    gpu = PrefixCache(on_gpu())
    assert gpu.place.startswith("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu.nbytes, gpu.nbytes))
    for limit, place in ((4, "cpu"), (0, "disk")):
        cache = PrefixCache(on_gpu(), limit, tmp_path)
        assert cache.place == place
        assert same(cache.take(ROWS), gpu.take(ROWS))
