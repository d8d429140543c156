"""The equivalences that serving rests on, and what `<USER_EMB>` may see."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import assert_same_gradients, random_profiles, tiny_towers
from transformers import AutoConfig, AutoModelForCausalLM

from qanchor.model import attention
from qanchor.model.batch import collate, event_tokens
from qanchor.model.hierarchy import Prefix
from qanchor.model.prefixes import PrefixCache
from qanchor.model.towers import Towers

KEPT = np.array([8, 6])
QUERIES = ["will this user buy coffee soon?", "concert", "what about the rent, and a much longer question about hotel"]
TINY = {
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "llama": {"num_key_value_heads": 4},
}


def family(name: str) -> Towers:
    """Towers on a tiny random backbone of a Hugging Face family, its own tokenizer replaced by ours."""
    towers = tiny_towers()
    config = AutoConfig.for_model(
        name,
        vocab_size=len(towers.tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        **TINY[name],
    )
    towers.backbone = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME).eval()
    return towers


def prefix_of(towers: Towers, rows: np.ndarray) -> Prefix:
    profiles = random_profiles()
    return towers.prefix(collate(profiles, rows, KEPT), towers.text_encoder.index(profiles.texts.text))


@pytest.mark.parametrize("name", TINY)
@torch.no_grad()
def test_one_pass_equals_cached_equals_the_library_reading_each_sequence_alone(name):
    """Packed and cached against the library's own eager attention on `prefix + suffix`, one at a time, unpadded."""
    towers = family(name)
    prefix, queries = prefix_of(towers, np.arange(6)), towers.tokens(QUERIES, "left")
    query_BN = torch.arange(3).expand(6, 3)
    packed = towers.anchor(prefix, queries, query_BN)
    cached = towers.anchor(prefix, queries, query_BN, cached=towers.keys_values(prefix))
    torch.testing.assert_close(packed, cached, atol=2e-5, rtol=0)

    suffixes, told = towers.suffixes(prefix, queries, query_BN)
    suffix_BNSD, mask_BNS = suffixes.row_BLD.view(6, 3, -1, towers.width), suffixes.mask_BNS
    eager = AutoModelForCausalLM.from_config(towers.backbone.config, attn_implementation="eager").eval()
    eager.load_state_dict(towers.backbone.state_dict())
    for b in range(6):
        for n in range(3):
            alone = torch.cat([prefix.token_BPD[b][prefix.mask_BP[b]], suffix_BNSD[b, n][mask_BNS[b, n]]])
            state = eager.get_decoder()(inputs_embeds=alone[None]).last_hidden_state[:, -1]
            beside = None if told is None else told.stream_BNY[b, n][None, None]
            embedding = towers.head(towers.head.project(state[None], beside), "anchor")[0, 0]
            torch.testing.assert_close(embedding, packed[b, n], atol=2e-5, rtol=0)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cache", [False, True])
def test_a_question_put_to_all_equals_the_question_put_to_each(layers, cache):
    """Their keys and values are made once, or once a user: states, and gradients of everything."""
    towers = tiny_towers(layers=layers).train()
    queries, prefix = towers.tokens(QUERIES, "left"), prefix_of(towers, np.arange(6))

    def read(query_XN, prompt_XNKD):
        cached = towers.keys_values(prefix) if cache else None
        embedding_BNO = towers.anchor(prefix, queries, query_XN, None, cached)
        suffixes, _ = towers.suffixes(prefix, queries, query_XN, prompt_XNKD)
        state_BNRD = towers.read(prefix, suffixes, slice(-1, None), cached)
        torch.autograd.backward((embedding_BNO[..., 0] + state_BNRD.sum((2, 3))).sum(), retain_graph=True)
        gradients = {name: p.grad for name, p in towers.named_parameters() if p.grad is not None}
        towers.zero_grad()
        return (embedding_BNO, state_BNRD), gradients

    query_1N, prompt_1NKD = torch.arange(3)[None], towers.prompt.expand(1, 3, -1, -1)
    outputs, gradients = read(query_1N, prompt_1NKD)
    each_outputs, each_gradients = read(query_1N.expand(6, 3), prompt_1NKD.expand(6, -1, -1, -1))
    torch.testing.assert_close(outputs, each_outputs, atol=2e-5, rtol=1e-4)
    assert_same_gradients(gradients, each_gradients)


@torch.no_grad()
def test_a_user_alone_equals_the_user_in_a_batch(towers):
    queries, query_BN = towers.tokens(QUERIES, "left"), torch.arange(3).expand(8, 3)
    together = towers.anchor(prefix_of(towers, np.arange(8)), queries, query_BN)
    alone = [towers.anchor(prefix_of(towers, np.array([i])), queries, query_BN[:1]) for i in range(8)]
    torch.testing.assert_close(torch.cat(alone), together, atol=2e-5, rtol=0)


@torch.no_grad()
def test_left_padding_equals_right_padding(towers):
    prefix, queries = prefix_of(towers, np.arange(5)), towers.tokens(QUERIES, "left")
    query_BN = torch.arange(3).expand(5, 3)
    shift = [int((~row).sum()) for row in prefix.mask_BP]
    rolled = {
        f.name: torch.stack([row.roll(k, 0) for row, k in zip(getattr(prefix, f.name), shift, strict=True)])
        for f in dataclasses.fields(Prefix)
        if f.name != "tally_BY"
    }
    left = Prefix(**rolled, tally_BY=prefix.tally_BY)
    assert not left.mask_BP[:, 0].all()
    torch.testing.assert_close(
        towers.anchor(left, queries, query_BN), towers.anchor(prefix, queries, query_BN), atol=2e-5, rtol=0
    )


@torch.no_grad()
def test_user_emb_never_sees_the_answer_nor_another_suffix(towers):
    prefix, queries = prefix_of(towers, np.arange(4)), towers.tokens(QUERIES, "left")
    answers = towers.tokens(["three times, at the coffee shop", "nothing"], "right")
    query_BN = torch.tensor([[0, 1]]).expand(4, 2)

    def states(answer_BN):
        suffixes, _ = towers.suffixes(prefix, queries, query_BN, None, answers, answer_BN)
        return towers.read(prefix, suffixes, slice(-suffixes.own_BNYD.shape[2], None))

    one, other = states(torch.tensor([[0, 0]] * 4)), states(torch.tensor([[0, 1]] * 4))
    assert torch.equal(one[:, :, 0], other[:, :, 0])  # <USER_EMB>: untouched by the answer
    assert not torch.allclose(one[:, 1, 1:], other[:, 1, 1:])  # behind it: not
    assert torch.equal(one[:, 0], other[:, 0])  # and the other suffix sees nothing of it


@torch.no_grad()
def test_a_bypassed_backbone_equals_one_with_zero_branches(profiles):
    towers = tiny_towers(live=False)
    prefix, queries = prefix_of(towers, np.arange(6)), towers.tokens(QUERIES, "left")
    answers, answer_BN = towers.tokens(["coffee", "nothing at all"], "right"), torch.tensor([[0, 1, 1]] * 6)
    query_BN = torch.arange(3).expand(6, 3)
    user, answer = towers.aligned(prefix, queries, query_BN, answers, answer_BN)
    suffixes, told = towers.suffixes(prefix, queries, query_BN)
    state_BN1D = towers.read(prefix, suffixes, slice(-1, None))
    torch.testing.assert_close(user, towers.head.project(state_BN1D[:, :, 0], told.stream_BNY), atol=1e-5, rtol=0)
    torch.testing.assert_close(answer, towers.answer(answers, answer_BN), atol=1e-5, rtol=0)


@torch.no_grad()
def test_cached_prefixes_of_any_selection_equal_fresh_ones(towers):
    prefix = prefix_of(towers, np.arange(8))
    short = prefix_of(towers, np.array([0, 1]))
    cache = PrefixCache([(part, towers.keys_values(part)) for part in (prefix, short)])
    queries, rows = towers.tokens(QUERIES, "left"), np.array([9, 3, 0, 3])
    query_BN = torch.arange(3).expand(4, 3)
    taken, layers = cache.take(rows)
    fresh = towers.anchor(prefix_of(towers, np.array([1, 3, 0, 3])), queries, query_BN)
    assert len(cache) == 10
    torch.testing.assert_close(towers.anchor(taken, queries, query_BN, cached=layers), fresh, atol=2e-5, rtol=0)


def test_recent_texts_have_tokens_of_their_own_and_categories_share_the_rest():
    """Against a slow reading, event by event; no event is without a token."""
    profiles = random_profiles(mean=80)
    kept = np.array([4, 2])
    batch = collate(profiles, np.arange(len(profiles)), kept)
    token_E = batch.entry_token_R[batch.entry_E].numpy()
    worth_T = np.bincount(token_E, minlength=len(batch.token_owner_T))
    for n in range(len(profiles)):
        own = slice(profiles.offsets[n], profiles.offsets[n + 1])
        expected: list[list[int]] = []
        for m in range(2):
            texts = [int(t) for t, k in zip(profiles.text[own], profiles.modality[own], strict=True) if k == m]
            newest_first = list(dict.fromkeys(reversed(texts)))
            rest = [t for t in texts if t not in newest_first[: kept[m]]]
            often = Counter(profiles.texts.category[t] for t in rest)
            ranked = sorted(often, key=lambda category: (-often[category], category))
            shared = ranked[: kept[m] - 1], ranked[kept[m] - 1 :]
            groups = [[category] for category in shared[0]] + [shared[1]] * bool(shared[1])
            expected += [[t for t in rest if profiles.texts.category[t] in group] for group in groups]
            expected += [[t] * texts.count(t) for t in reversed(newest_first[: kept[m]])]
        mine = (batch.token_owner_T == n).nonzero().squeeze(1)
        assert batch.token_slot_T[mine].tolist() == list(range(len(expected)))
        texts_of = [profiles.text[token_E == token].tolist() for token in mine.tolist()]
        assert [sorted(texts) for texts in texts_of] == [sorted(texts) for texts in expected]
        assert worth_T[mine].tolist() == [len(texts) for texts in expected]
    assert batch.idle_B[0] == 8  # no events at all has a bucket of its own


def test_a_modality_without_room_has_no_event_tokens():
    profiles = random_profiles()
    batch = collate(profiles, np.arange(len(profiles)), np.array([0, 3]))
    modality_E = torch.from_numpy(profiles.modality.astype(np.int64))
    assert ((batch.entry_token_R[batch.entry_E] < 0) == (modality_E == 0)).all()
    assert (event_tokens(profiles, np.array([0, 3]))[:, 0] == 0).all()


def test_event_tokens_are_those_of_the_prefix(towers):
    profiles = random_profiles(mean=60)
    kept = np.array([3, 2])
    batch = collate(profiles, np.arange(len(profiles)), kept)
    counted = np.bincount(batch.token_owner_T, minlength=len(profiles))
    assert event_tokens(profiles, kept).sum(1).tolist() == counted.tolist()
    assert counted.max() > kept.sum()  # else nothing is shared here


@pytest.mark.parametrize("named", [False, True])
def test_an_ablated_prefix_lacks_its_coarse_tokens_and_nothing_else_breaks(profiles, named):
    towers = tiny_towers(named=named, user_token=False, modality_tokens=False)
    prefix = towers.prefix(collate(profiles, np.arange(12), KEPT), towers.text_encoder.index(profiles.texts.text))
    assert prefix.mask_BP.sum(1).tolist() == event_tokens(profiles, KEPT)[:12].sum(1).tolist()
    queries, query_BN = towers.tokens(QUERIES, "left"), torch.arange(3).expand(12, 3)
    fresh = towers.anchor(prefix, queries, query_BN)
    assert fresh.isfinite().all()  # also of the user without any token
    rows = np.flatnonzero(prefix.mask_BP.any(1).numpy())
    cache = PrefixCache([(prefix, towers.keys_values(prefix))])
    taken, layers = cache.take(rows)
    kept = towers.anchor(taken, queries, query_BN[rows], cached=layers)
    torch.testing.assert_close(kept, fresh[rows], atol=2e-5, rtol=0)


def test_volume_reaches_the_user_token_linearly(profiles):
    """Twice the logs, twice the distance: what no layer norm of an adapter leaves."""
    towers = tiny_towers()
    batch = collate(profiles, np.arange(1, 6), KEPT)
    counts = ("total_BX", "count_BMC", "kind_count_GC")
    twice, thrice = (
        dataclasses.replace(batch, **{name: getattr(batch, name) * by for name in counts}) for by in (2, 3)
    )
    names = towers.text_encoder(towers.names, torch.arange(2))
    one, two, three = (towers.hierarchy._volume(some, names) for some in (batch, twice, thrice))
    torch.testing.assert_close(three - two, two - one)


def test_a_prefix_changes_with_new_events_or_a_crossed_idle_bucket_only(towers):
    """D4: nothing but the bucket depends on `as_of`, so that refresh may skip a user who did nothing."""
    profiles = random_profiles()
    later = dataclasses.replace(profiles, as_of=profiles.as_of + 60)
    same, shifted = (collate(p, np.arange(1, 12), KEPT) for p in (profiles, later))
    for field in dataclasses.fields(same):
        if field.name != "idle_B":
            assert np.array_equal(getattr(same, field.name), getattr(shifted, field.name)), field.name


@pytest.mark.parametrize("named", [False, True])
def test_a_text_read_once_equals_each_of_its_events_read(profiles, named):
    """Features of weight nothing change nothing, but that every event goes through its adapter by itself."""
    once, each = tiny_towers(named=named).float(), tiny_towers(named=named, features=True).float()
    each.load_state_dict(once.state_dict(), strict=False)
    torch.nn.init.zeros_(each.hierarchy.feature_in.weight)
    torch.nn.init.zeros_(each.hierarchy.feature_in.bias)
    batch = collate(profiles, np.arange(len(profiles)), np.array([8, 6]))
    prefixes = [towers.prefix(batch, towers.text_encoder.index(profiles.texts.described)) for towers in (once, each)]
    torch.testing.assert_close(prefixes[0].token_BPD, prefixes[1].token_BPD, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_kept_contents_of_a_prefix_change_no_bit_of_an_answer(dtype):
    towers = tiny_towers()
    towers.backbone.to(dtype)
    queries, query_BN = towers.tokens(QUERIES, "left"), torch.arange(3).expand(6, 3)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        prefix = prefix_of(towers, np.arange(6))
        cached, contents = towers.keys_values(prefix), towers.contents(prefix)
        fresh = towers.anchor(prefix, queries, query_BN, cached=cached)
        assert torch.equal(towers.anchor(prefix, queries, query_BN, cached=cached, contents=contents), fresh)
