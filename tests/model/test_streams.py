"""What an embedding is mixed of, and what a scenario's prompt has to say about it."""

from __future__ import annotations

import numpy as np
import torch
from conftest import random_profiles, tiny_towers

from qanchor.events.profiles import CODES, Texts
from qanchor.model.batch import collate
from qanchor.model.head import PROMPTED, STREAMS, Head
from qanchor.model.prompts import Prompts, SoftPrompt


def texts(*pairs: tuple[str, str]) -> Texts:
    ids = np.arange(len(pairs), dtype=np.uint64)
    return Texts(ids, [m for m, _ in pairs], [c for _, c in pairs], [f"text {n}" for n in range(len(pairs))])


def test_a_category_has_the_same_code_in_any_table():
    small, large = texts(("bill", "food")), texts(("bill", "fuel"), ("mini", "food"), ("bill", "food"))
    assert small.code[0] == large.code[2]
    assert len(set(large.code.tolist())) == 3
    assert (large.code < CODES).all()


def test_a_mix_is_the_weighted_sum_of_centred_streams_at_unit_length():
    torch.manual_seed(0)
    head = Head(12, 8)
    head.anchor.mean.normal_()
    head.anchor.variance.uniform_(0.5, 2)
    projection = head.project(torch.randn(3, 2, 12), torch.randn(3, 2, 3 * 8)).double()
    share = torch.rand(3, 2, 4, dtype=torch.float64) * 3
    slow = torch.zeros(3, 2, 8, dtype=torch.float64)
    for s, weight in enumerate(STREAMS):
        part = slice(8 * s, 8 * s + 8)
        mean, variance = head.anchor.mean[part].double(), head.anchor.variance[part].double()
        slow += weight * share[..., s : s + 1] * (projection[..., part] - mean) / (variance + 1e-5).sqrt()
    slow /= slow.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(head.mix(head.streams(projection, "anchor"), share), slow, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_tuned_scenario_has_its_own_share_of_each_stream_and_others_the_usual():
    towers = tiny_towers(live=False)
    profiles = random_profiles()
    batch = collate(profiles, np.arange(4), np.array([8, 6]))
    prefix = towers.prefix(batch, towers.text_encoder.index(profiles.texts.text))
    queries, query = towers.tokens(["coffee?", "a concert?", "rent"], "left"), torch.arange(3).expand(4, 3)
    tuned, untuned = (SoftPrompt("", "", towers.prompt.detach(), own * torch.ones(2, 16), "") for own in (1, 0))
    streams, _ = towers.streams(prefix, queries, query)
    mixed = towers.anchor(prefix, queries, query, Prompts.of([tuned, untuned, None], towers.prompt))
    base = towers.anchor(prefix, queries, query)
    share = torch.tensor(PROMPTED)
    torch.testing.assert_close(mixed[:, 0], towers.head.mix(streams, share)[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[:, 1:], base[:, 1:], atol=1e-6, rtol=0)
    assert not torch.allclose(mixed[:, 0], base[:, 0], atol=1e-3)
