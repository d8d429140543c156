"""Chunks, packing and saved memory change nothing: loss and gradients are those of the plain reading of Eq. 3-6."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_towers
from training_world import SETTINGS, corpora

from qanchor.model import losses
from qanchor.model.batch import collate
from qanchor.model.head import STREAMS
from qanchor.training.corpus import Corpus
from qanchor.training.masters import Masters
from qanchor.training.objective import Objective
from qanchor.training.pretrain import Pretraining
from qanchor.training.ranks import ALONE

OPEN = SETTINGS.model_copy(update={"batch": 10, "pairs": 3, "temperature": 0.3})


def world(seed: int = 0):
    towers = tiny_towers(seed)
    corpus, _ = corpora(towers)
    drawn = corpus.pairs.draw(np.random.default_rng(seed), OPEN.batch, OPEN.pairs)
    return towers.train(), corpus, drawn


def plain(towers, corpus, drawn, settings, bypass, alone: bool):
    """The loss as its equations say it, by one forward pass; `alone` reads every pair in a sequence of its own."""
    users, questions = drawn.query_LN.shape
    cells = [(np.array([b]), np.array([n])) for b in range(users) for n in range(questions)]
    parts, ntp, words = torch.zeros(2, users, questions, len(STREAMS) * towers.dim), torch.zeros(()), 0
    for rows, columns in cells if alone else [(np.arange(users), np.arange(questions))]:
        prefix = towers.prefix(collate(corpus.profiles, drawn.profile_L[rows], corpus.kept), corpus.texts)
        query_BN, answer_BN = (torch.from_numpy(x[np.ix_(rows, columns)]) for x in (drawn.query_LN, drawn.answer_LN))
        if bypass:
            both = towers.aligned(prefix, corpus.queries, query_BN, corpus.answers, answer_BN)
        else:
            suffixes, told = towers.suffixes(prefix, corpus.queries, query_BN, None, corpus.answers, answer_BN)
            id_BNT, mask_BNT = corpus.answers.take(answer_BN, "right")
            state_BNYD = towers.read(prefix, suffixes, slice(-id_BNT.shape[2] - 1, None))
            both = towers.head.project(state_BNYD[:, :, 0], told.stream_BNY), towers.answer(corpus.answers, answer_BN)
            logits = towers.backbone.get_output_embeddings()(state_BNYD[:, :, :-1])
            ntp = ntp + F.cross_entropy(logits[mask_BNT], id_BNT[mask_BNT], reduction="sum")
            words += int(mask_BNT.sum())
        place = tuple(torch.from_numpy(x) for x in np.ix_(np.arange(2), rows, columns))
        parts = parts.index_put(place, torch.stack(both))
    streams = (_centred(part).split(towers.dim, -1) for part in parts)
    user, answer = (F.normalize(sum(w * x for w, x in zip(STREAMS, part, strict=True)), dim=-1) for part in streams)
    contrast = [
        losses.contrastive(
            user[:, n],
            answer[:, n],
            settings.temperature,
            settings.margin,
            settings.mask,
            torch.from_numpy(drawn.answer_LN[:, n]),
        ).loss
        for n in range(questions)
    ]
    return torch.stack(contrast).mean() + (0.0 if bypass else settings.ntp * ntp / words)


def _centred(x):
    x = x - x.mean(0)
    return x / (x.square().mean((0, 1)) + 1e-5).sqrt()


def gradients(towers) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
    towers.zero_grad()
    return found


def measured(towers, corpus, drawn, bypass, **changed):
    """Loss and gradients by the objective."""
    settings = OPEN.model_copy(update=changed)
    found = Objective(towers, corpus, settings, ALONE).backward(drawn, bypass, True, Masters(towers), 0)
    return found.loss, gradients(towers)


def assert_same(one, other, rtol=2e-5):
    (loss, own), (expected, theirs) = one, other
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0)
    assert own.keys() == theirs.keys()
    for name, gradient in own.items():
        size = theirs[name].abs().max().item()
        torch.testing.assert_close(gradient, theirs[name], rtol=0, atol=rtol * size + 1e-7, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize("alone", [True, False])
def test_packed_pairs_equal_pairs_in_sequences_of_their_own(bypass, alone):
    towers, corpus, drawn = world()
    expected = plain(towers, corpus, drawn, OPEN, bypass, alone)
    expected.backward()
    theirs = gradients(towers)
    assert_same(measured(towers, corpus, drawn, bypass), (expected, theirs))


@pytest.mark.parametrize("bypass", [True, False])
@pytest.mark.parametrize("changed", [{}, {"ntp": 0.0}, {"other_query": True, "mask": "demo"}])
def test_gradient_caching_equals_one_pass(bypass, changed):
    towers, corpus, drawn = world(1)
    whole = measured(towers, corpus, drawn, bypass, **changed)
    for tokens in (1, 250, 600):
        assert_same(measured(towers, corpus, drawn, bypass, chunk=tokens, **changed), whole)


def test_chunks_hold_every_user_once_within_the_budget_and_the_longest_together():
    towers, corpus, drawn = world()
    objective = Objective(towers, corpus, OPEN.model_copy(update={"chunk": 300}), ALONE)
    chunks = objective.chunks(drawn)
    assert len(chunks) > 2
    assert sorted(np.concatenate([chunk.place_C for chunk in chunks])) == list(range(10))
    lengths = [corpus.prefix_N[drawn.profile_L[chunk.place_C]] for chunk in chunks]
    assert all(later.max() <= earlier.min() for earlier, later in itertools.pairwise(lengths))
    for chunk, length in zip(chunks, lengths, strict=True):
        prefix = towers.prefix(chunk.batch, corpus.texts)
        suffixes, _ = towers.suffixes(prefix, corpus.queries, chunk.query_CN, None, corpus.answers, chunk.answer_CN)
        mask = suffixes.mask_BNS
        assert (prefix.mask_BP.sum(1).numpy() == length).all()
        assert len(length) == 1 or prefix.mask_BP.numel() + mask.numel() <= chunk.columns <= 300
        answers = corpus.answers.mask_RL[chunk.answer_CN].sum() + chunk.answer_CN.numel()
        assert chunk.tokens == prefix.mask_BP.sum() + mask.sum() + answers


def test_the_order_of_chunks_does_not_matter(monkeypatch):
    towers, corpus, drawn = world()
    objective = Objective(towers, corpus, OPEN.model_copy(update={"chunk": 300}), ALONE)
    forwards = objective.backward(drawn, False, True, Masters(towers), 0)
    expected, real = gradients(towers), Corpus.chunks
    monkeypatch.setattr(Corpus, "chunks", lambda *arguments: real(*arguments)[::-1])
    backwards = objective.backward(drawn, False, True, Masters(towers), 0)
    assert torch.equal(forwards.contrast.loss, backwards.contrast.loss)
    assert_same((forwards.loss, expected), (backwards.loss, gradients(towers)))


def test_activation_checkpointing_changes_nothing(tmp_path):
    towers, corpus, drawn = world()
    whole = measured(towers, corpus, drawn, False)
    Pretraining(towers, corpus, corpus, OPEN.model_copy(update={"checkpointing": True}), 0, tmp_path)
    kept = []
    hook = towers.backbone.get_decoder().layers[0].input_layernorm.register_forward_hook(lambda *_: kept.append(1))
    assert_same(measured(towers, corpus, drawn, False, checkpointing=True), whole)
    hook.remove()
    assert len(kept) == 4  # users and answers, each once forward and once more for the backward pass


def test_dropout_is_the_same_in_both_stages_and_in_a_step_done_again():
    towers, corpus, drawn = world()
    layer = towers.backbone.get_decoder().layers[0]
    layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.5))
    chunked = measured(towers, corpus, drawn, False, chunk=300)
    torch.rand(7)
    assert torch.equal(chunked[0], measured(towers, corpus, drawn, False, chunk=300)[0])
    objective = Objective(towers, corpus, OPEN.model_copy(update={"chunk": 300}), ALONE)
    seen = []
    real = objective._read
    objective._read = lambda *arguments: seen.append(real(*arguments)) or seen[-1]
    objective.backward(drawn, False, True, Masters(towers), 0)
    half = len(seen) // 2
    for first, second in zip(seen[:half], seen[half:], strict=True):
        torch.testing.assert_close(first[0], second[0], rtol=0, atol=0)


def test_no_user_emb_sees_any_answer():
    """All answers of a batch exchanged: the users' projections stay bit for bit, those of the answers don't."""
    towers, corpus, drawn = world()
    objective = Objective(towers, corpus, OPEN, ALONE)
    (chunk,) = objective.chunks(drawn)
    user, answer = objective._read(chunk, False)[0]
    chunk.answer_CN.copy_(chunk.answer_CN.flip(0))
    other_user, other_answer = objective._read(chunk, False)[0]
    assert torch.equal(user, other_user)
    assert not torch.allclose(answer, other_answer)


def test_bf16_weights_gather_the_gradients_of_chunks_in_fp32():
    layer = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    masters = Masters(layer)
    for part in (1.0, 2.0**-10):  # their sum has no bf16 of its own
        layer.weight.grad = torch.full((1, 4), part, dtype=torch.bfloat16)
        masters.collect()
    assert masters.parameters[0].grad.unique().item() == 1 + 2.0**-10


def test_flops_are_those_of_the_products():
    """Two thirds of a step are its backward pass; the align phase leaves the backbone out."""
    towers, corpus, drawn = world()
    objective = Objective(towers, corpus, OPEN, ALONE)
    whole, light = objective.flops(drawn, False), objective.flops(drawn, True)
    first, last = towers.backbone.get_decoder().layers
    by_all = [*first.parameters(), last.self_attn.k_proj.weight, last.self_attn.v_proj.weight]
    assert whole > 6 * sum(p.numel() for p in by_all) * 0.9
    assert light < whole
    assert gradients(towers) == {}
