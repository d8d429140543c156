"""Where a process computes, and how much of a GPU that it shares it may take."""

from __future__ import annotations

import pytest
import torch

from qanchor.model.backbone import device
from qanchor.model.prefixes import Records


@pytest.mark.parametrize(("rank", "place"), [(None, "cuda:0"), ("2", "cuda:2")])
def test_a_process_computes_on_its_own_gpu(monkeypatch, rank, place):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert device() == torch.device(place)


def test_without_a_gpu_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device() == torch.device("cpu")


@pytest.mark.parametrize(("free", "room"), [(80, 20), (30, 15), (0, 0)])
def test_kept_prefixes_take_half_of_what_is_free_within_the_share_of_a_process(monkeypatch, free, room):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (free, 100))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda place: 0.5)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 10)
    records = Records(torch.device("cuda:0"), 4, None)
    assert records.rooms == [(torch.device("cuda:0"), room), (torch.device("cpu"), 4)]
