"""Attention by modality: shares, whoever else is asked, and equal to a slow reading of one user."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import random_profiles, tiny_towers

from qanchor.inference.attention import _watched, modality_attention
from qanchor.inference.engine import QAnchor
from qanchor.model import persistence
from qanchor.model.batch import collate, event_tokens
from qanchor.model.prompts import SoftPrompt

QUERIES = ["will this user buy coffee soon?", "concert"]
KEPT = np.array([8, 6])


def model(seeded: bool, dtype: torch.dtype = torch.float32) -> QAnchor:
    towers = tiny_towers(seeded=seeded)
    towers.backbone.to(dtype)
    prompt = towers.prompt.detach() + 0.3
    fingerprint = persistence.fingerprint(towers)
    return QAnchor(towers, {"coffee": SoftPrompt("coffee", QUERIES[0], prompt, torch.zeros(2, 16), fingerprint)})


@pytest.mark.parametrize("seeded", [True, False])
def test_shares_sum_to_one_and_do_not_depend_on_company(seeded):
    asked, profiles = model(seeded), random_profiles(40, mean=np.arange(40) * 2)
    share = modality_attention(asked, profiles, ["coffee"], QUERIES)
    assert share.shape == (40, 3, 2)
    np.testing.assert_allclose(share.sum(-1), 1, atol=1e-5)
    assert (share >= 0).all()
    for n in (0, 7, 39):
        alone = modality_attention(asked, profiles.take(np.array([n])), ["coffee"], QUERIES)
        np.testing.assert_allclose(alone[0], share[n], atol=0.02)
    assert np.abs(share[:, 0] - share[:, 1]).max() > 1e-3, "the soft prompt moves nothing"
    assert np.abs(share[:, 1] - share[:, 2]).max() > 1e-3, "the query moves nothing"


@pytest.mark.parametrize("seeded", [True, False])
def test_it_leaves_the_model_as_it_was(seeded):
    asked, profiles = model(seeded), random_profiles(5)
    before = asked.embed(profiles, queries=QUERIES)
    modality_attention(asked, profiles, queries=QUERIES)
    assert np.array_equal(asked.embed(profiles, queries=QUERIES), before)


def test_the_last_layer_equals_the_librarys_own_attention():
    asked, profiles = model(seeded=False), random_profiles(6)
    told = modality_attention(asked, profiles, queries=QUERIES[:1])
    towers = asked.towers
    for n in range(len(profiles)):
        batch = collate(profiles, np.array([n]), KEPT)
        with torch.no_grad():
            encoder = towers.text_encoder
            prefix = towers.prefix(batch, encoder.read_all(encoder.index(profiles.texts.described)))
            suffixes, _ = towers.suffixes(
                prefix, towers.tokens(QUERIES[:1], "left"), torch.zeros(1, 1, dtype=torch.long)
            )
            row = torch.cat([prefix.token_BPD.to(towers.dtype), suffixes.row_BLD], 1)
            towers.backbone.set_attn_implementation("eager")
            out = towers.backbone.get_decoder()(inputs_embeds=row, use_cache=False, output_attentions=True)
            towers.backbone.set_attn_implementation("qanchor")
        columns = prefix.mask_BP.shape[1]
        # modality by modality, longest ago first: as the hierarchy lays them out
        modality = np.full(columns, -1)
        modality[1:3] = 0, 1
        token_E = batch.entry_token_R[batch.entry_E]
        modality[3 + batch.token_slot_T[token_E].numpy()] = batch.modality_E.numpy()
        # the prefix's part of each head's softmax
        heads = out.attentions[-1][0, :, -1, :columns].double()
        heads = (heads / heads.sum(-1, keepdim=True)).mean(0).numpy()
        share = np.array([heads[modality == m].sum() for m in (0, 1)])
        np.testing.assert_allclose(told[n, 0], share / share.sum(), atol=0.02)


def test_the_seed_looks_at_the_event_that_the_query_names_and_never_at_padding():
    asked, profiles = model(seeded=True), random_profiles(8, mean=40)
    seed = asked.towers.seed
    with torch.no_grad():
        seed.maps.copy_(torch.eye(32).expand_as(seed.maps))
        seed.scale.fill_(500.0)
    newest = profiles.offsets[4] - 1  # of user 3: its text is kept, as the last token of its modality
    modality, text = profiles.modality[newest], profiles.texts.text[profiles.text[newest]]
    tokens = event_tokens(profiles, KEPT)
    with _watched(asked.towers) as seen:
        asked.ask(asked.read(profiles), queries=[text])
    weight_P = next(w for w in seen[0][:, 0] if w[2 + tokens[3, : modality + 1].sum()] > 0.2)
    assert float(weight_P.sum()) == pytest.approx(1, abs=1e-5)
    # a quarter of the attention: heads that match the whole query, of the half that is the query's
    assert weight_P[2 + tokens[3, : modality + 1].sum()] >= 0.24
    lengths = sorted((3 + tokens.sum(1)).tolist(), reverse=True)
    for own, length in zip(seen[0][:, 0], lengths, strict=True):
        assert own[length:].sum() == 0
        assert own[:length].min() >= 0
