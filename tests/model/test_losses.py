"""Each loss against a slow float64 reading of its equation, loop by loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qanchor.model import losses


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 5, generator=generator, dtype=torch.float64), dim=-1)


def slow_contrastive(u, v, tau, margin, mask, answers=None, groups=None):
    """Eq. 3-5, one pair at a time."""
    total = 0.0
    for i in range(len(u)):
        positive = float(u[i] @ v[i])
        z = math.exp(positive / tau)
        for j in range(len(u)):
            if j == i or (answers is not None and answers[i] == answers[j]):
                continue
            if groups is not None and groups[i] != groups[j]:
                continue
            uv, uu, vv, vu = float(u[i] @ v[j]), float(u[i] @ u[j]), float(v[i] @ v[j]), float(v[i] @ u[j])
            if mask == "demo":
                z += sum(math.exp(s / tau) for s in (uv, uu, vu) if s <= positive + margin)
            elif mask == "none" or (uu <= positive + margin and uv <= positive + margin):
                z += math.exp(uv / tau) + math.exp(uu / tau) + math.exp(vv / tau)
        total -= math.log(math.exp(positive / tau) / z)
    return total / len(u)


@pytest.mark.parametrize("mask", ["eq5", "demo", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_contrastive_is_eq_3_to_5(mask, seed):
    u, v = unit(9, seed), unit(9, seed + 100)
    v = F.normalize(v + 0.5 * u, dim=-1)
    answers = torch.tensor([0, 1, 2, 0, 3, 4, 5, 5, 6]) if seed % 2 else None
    groups = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1, 0]) if seed > 1 else None
    got = losses.contrastive(u, v, 0.2, 0.1, mask, answers, groups)
    assert got.loss.item() == pytest.approx(slow_contrastive(u, v, 0.2, 0.1, mask, answers, groups), rel=1e-10)


def test_margin_drops_a_negative_above_the_positive_plus_margin_and_none_below():
    """The sign of the margin: a candidate is dropped when it is *more* similar than the positive plus margin."""
    u = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    v = F.normalize(torch.tensor([[0.8, 0.6], [0.95, 0.3]], dtype=torch.float64), dim=-1)
    # sim(u0, v0) = .8, sim(u0, v1) = .954: dropped with margin .1, kept with margin .2
    assert losses.contrastive(u, v, 1.0, 0.2, "eq5").kept > losses.contrastive(u, v, 1.0, 0.1, "eq5").kept


def test_contrastive_is_finite_in_log_space_at_tiny_temperatures():
    u, v = unit(6, 0).float().requires_grad_(), unit(6, 1).float()
    loss = losses.contrastive(u, v, 1e-3).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(u.grad).all()


def test_other_queries_of_a_user_are_negatives_of_the_user_user_term():
    u, v, others = unit(6, 0), unit(6, 1), torch.stack([unit(6, 2), unit(6, 3)], 1)
    sims = [[float(u[i] @ others[i, x]) for x in range(2)] for i in range(6)]
    slow = 0.0
    for i in range(6):
        positive = float(u[i] @ v[i])
        z = math.exp(positive / 0.2) + sum(math.exp(s / 0.2) for s in sims[i] if s <= positive + 0.1)
        for j in range(6):
            if j != i and max(float(u[i] @ u[j]), float(u[i] @ v[j])) <= positive + 0.1:
                z += sum(math.exp(float(a @ b) / 0.2) for a, b in ((u[i], v[j]), (u[i], u[j]), (v[i], v[j])))
        slow -= math.log(math.exp(positive / 0.2) / z) / 6
    got = losses.contrastive(u, v, 0.2, 0.1, "eq5", other_BXD=others)
    assert got.loss.item() == pytest.approx(slow, rel=1e-10)


def test_the_plateau_is_the_loss_of_equal_embeddings():
    same, answers = F.normalize(torch.ones(6, 4), dim=-1), torch.tensor([0, 1, 1, 2, 3, 1])
    got = losses.contrastive(same, same, 0.07, mask="none", answer_B=answers, other_BXD=same[:, None])
    assert got.plateau.item() == pytest.approx(got.loss.item(), rel=1e-5)


def test_collapse_reads_ln_3b_minus_2():
    """All embeddings equal: the plateau that training watches for (design, section 7)."""
    same = F.normalize(torch.ones(16, 4), dim=-1)
    assert losses.contrastive(same, same, 0.07, mask="none").loss.item() == pytest.approx(
        math.log(3 * 16 - 2), rel=1e-5
    )


def test_next_token_is_eq_6_per_token():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 4, 7)), rng.integers(0, 7, (2, 4))
    mask = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    slow = [
        -math.log(math.exp(logits[b, t, tokens[b, t]]) / sum(math.exp(x) for x in logits[b, t]))
        for b in range(2)
        for t in range(4)
        if mask[b, t]
    ]
    got = losses.next_token(torch.tensor(logits), torch.tensor(tokens), torch.tensor(mask))
    assert got.item() == pytest.approx(sum(slow) / len(slow), rel=1e-5)


def test_prototypical_is_eq_7():
    u, p = unit(6, 3), 3 * unit(2, 4)  # prototypes are directions: their length must not matter
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    slow = 0.0
    for i in range(6):
        sims = [math.exp(float(u[i] @ p[k] / p[k].norm()) / 0.07) for k in range(2)]
        slow -= math.log(sims[labels[i]] / sum(sims)) / 6
    assert losses.prototypical(u, p, labels, 0.07).item() == pytest.approx(slow, rel=1e-10)
