"""What the page shows: attention, statements, the state of refresh and audit; and the page itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from service_world import DAY, FREE, QUERIES, START, embedded, profiles, refreshed, serving

from qanchor.inference.attention import modality_attention
from qanchor.inference.engine import QAnchor
from qanchor.inference.search import direction
from qanchor.serving.app import policy_of
from qanchor.useru.statements import Framing

AS_OF = START + 12 * DAY
USERS = ["u0", "u3"]
NAMES = list(QUERIES)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return refreshed(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def client(project, folder):
    with serving(project, folder, scopes={"appends": ["append"]}) as client:
        yield client


def test_attention_is_what_the_model_says_outside_the_service(client, project):
    model = QAnchor.from_pretrained(project.project.out / "model")
    own = profiles(project, USERS, AS_OF)
    expected = modality_attention(model, own, NAMES, [*QUERIES.values(), FREE])
    asked = {"user_ids": [*USERS, "moon"], "scenarios": NAMES, "queries": [FREE]}
    reply = client.post("/v1/attention", json=asked).json()
    assert [error["user_id"] for error in reply["errors"]] == ["moon"]
    assert [(item["user_id"], item["scenario"]) for item in reply["data"]] == [
        (user, name) for user in USERS for name in (*NAMES, None)
    ]
    assert {item["as_of"] for item in reply["data"]} == {"2025-03-13T00:00:00Z"}
    shares = [[item[kind] and list(item[kind].values()) for kind in ("tuned", "base")] for item in reply["data"]]
    for n in range(len(USERS)):
        coffee, rent, free = shares[3 * n : 3 * n + 3]
        np.testing.assert_allclose([coffee[0], rent[0], coffee[1], rent[1], free[1]], expected[n], atol=0.02)
        assert free[0] is None
    for item in reply["data"]:
        assert tuple(item["base"]) == tuple(reply["modalities"]) == own.modalities
        for told in (item["base"], item["tuned"]):
            assert told is None or sum(told.values()) == pytest.approx(1, abs=1e-5)


def test_attention_leaves_the_model_as_it_was_and_keeps_company(client, project):
    """In one batch with embeddings, other questions and other users."""
    alone = client.post("/v1/attention", json={"user_ids": ["u3"], "scenarios": ["rent"]}).json()["data"]
    service = client.service

    async def together():
        import asyncio

        world = service.world
        rent, free = service.suffix(world, "rent"), service.suffix(world, "coffee")
        waits = service.submit(world, ["u0"], [free], None, attention=True)
        waits += service.submit(world, USERS, [free, rent], AS_OF)
        waits += service.submit(world, ["u3"], [rent, type(rent)(rent.query)], AS_OF, attention=True)
        return await asyncio.gather(*waits)

    _, *embeddings, shares = client.portal.call(together)
    expected = embedded(project, USERS, AS_OF, NAMES)
    np.testing.assert_allclose(np.stack([found.told_GX for found in embeddings]), expected, atol=0.02)
    tuned, base = (list(alone[0][kind].values()) for kind in ("tuned", "base"))
    np.testing.assert_allclose(shares.told_GX, [tuned, base], atol=0.02)


def test_an_appended_event_moves_attention_as_of_then(client):
    """Also one whose text the store has never seen."""
    asked = {"user_ids": ["u3"], "scenarios": ["coffee"], "as_of": "2025-03-13T06:00:00Z"}
    before = client.post("/v1/attention", json=asked).json()["data"][0]["base"]
    rows = [{"user": "u3", "time": AS_OF + 60 + n, "word": f"unheard of {n}"} for n in range(6)]
    sent = [{"id": f"a{n}", "row": row} for n, row in enumerate(rows)]
    assert client.post("/v1/events", json={"source": "mini", "events": sent}).json()["accepted"] == 6
    after = client.post("/v1/attention", json=asked).json()["data"][0]["base"]
    assert after["mini"] - before["mini"] > 1e-3
    assert sum(after.values()) == pytest.approx(1, abs=1e-5)


def test_statements_are_half_the_difference_from_their_denial(client, project):
    model = QAnchor.from_pretrained(project.project.out / "model")
    statements = ["buys coffee", "pays rent"]
    vectors = np.stack([direction(model, Framing.of(project.project.config), one) for one in statements])
    embedding_NGO = embedded(project, USERS, AS_OF, ["coffee"], [FREE])
    for g, question in enumerate(({"scenario": "coffee"}, {"query": FREE})):
        asked = {"user_ids": USERS, "statements": statements, **question}
        data = client.post("/v1/statements", json=asked).json()["data"]
        assert [(item["user_id"], item["statement"]) for item in data] == [(u, s) for u in USERS for s in statements]
        told = np.reshape([item["similarity"] for item in data], (2, 2))
        np.testing.assert_allclose(told, embedding_NGO[:, g] @ vectors.T, atol=0.02)
    wordless = client.post("/v1/statements", json={"user_ids": USERS, "scenario": "coffee", "statements": [" "]})
    assert wordless.status_code == 409
    assert "expected a phrase" in wordless.json()["error"]


def test_the_state_names_nobody_and_says_how_far_the_audit_log_is_whole(client, folder):
    reply = client.get("/v1/status", headers={"authorization": f"Bearer {client.keys['appends']}"})
    assert not re.search(r'"u\d', reply.text)
    audit = reply.json()["audit"]
    assert (audit["verified"], audit["problems"], audit["signed"]) == (0, [], False)  # as the service found it: empty
    client.post("/v1/embed", json={"user_ids": USERS, "queries": [FREE]})
    audit = client.post("/v1/audit/verify").json()
    assert audit["first"] == 1
    assert 0 < audit["verified"] <= audit["lines"]
    assert audit["problems"] == []
    path = folder / "audit" / "000000000001.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    changed = lines[0].replace(b'"users": ', b'"users": 1', 1)
    path.write_bytes(b"".join([changed, *lines[1:]]))
    audit = client.post("/v1/audit/verify").json()
    assert audit["verified"] < 2
    assert "one of them was changed" in audit["problems"][0]
    assert client.get("/v1/status").json()["audit"] == audit | {"lines": audit["lines"]}
    path.write_bytes(whole + path.read_bytes()[len(whole) + 1 :])


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.ids, self.labelled, self.inputs, self._inside = set(), set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        own = dict(attrs)
        assert not any(name.startswith("on") or name == "style" for name in own), (tag, own)  # the policy forbids them
        assert own.get("src") is None
        self._inside += tag == "label"
        if "id" in own:
            assert own["id"] not in self.ids
            self.ids.add(own["id"])
        if tag in ("input", "select", "textarea"):
            assert self._inside, f"{own} has no label"

    def handle_endtag(self, tag):
        self._inside -= tag == "label"


def test_the_page_runs_its_own_script_and_nothing_else(client):
    reply = client.get("/")
    policy = reply.headers["content-security-policy"]
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
        assert policy_of(reply.text.replace(text, text + " ")) != policy
    script = reply.text.partition("<script>")[2]
    assert "innerHTML" not in script
    assert "localStorage" not in script
    ids = Page(reply.text).ids
    assert set(re.findall(r'by\("([^"]+)"\)', script)) <= ids
    routes = set(client.get("/openapi.json").json()["paths"])
    assert set(re.findall(r'"(/v1/[a-z/]+)"', script)) <= routes


def test_what_the_page_asks_is_documented_with_examples(client):
    api = client.get("/openapi.json").json()
    for message in ("AttentionRequest", "AttentionReply", "StatementsRequest", "StatementsReply", "StatusReply"):
        assert json.dumps(api["components"]["schemas"][message]["examples"])
    for path in ("/v1/attention", "/v1/statements"):
        examples = api["components"]["schemas"][path.rsplit("/", 1)[1].title() + "Request"]["examples"]
        for example in examples:
            asked = example | {"user_ids": USERS} | ({"scenarios": ["coffee"]} if "scenarios" in example else {})
            assert client.post(path, json=asked).status_code == 200
