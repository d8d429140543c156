"""Who may not, may not; what is malformed is refused with the reason; too much is too much, for a while."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from service_world import DAY, FREE, START, refreshed, serving
from typer.testing import CliRunner

from qanchor.cli import app as cli
from qanchor.errors import BusyError, ConfigError, CredentialError
from qanchor.serving.batcher import Batcher
from qanchor.serving.principal import Principal
from qanchor.serving.serve import serve

SCOPES = {
    "coffee only": ["embed:coffee", "score:coffee", "search:coffee"],
    "appends": ["append"],
    "admin": ["admin"],
}
COFFEE = {"user_ids": ["u0"], "scenarios": ["coffee"]}
EVENTS = {"source": "bill", "events": [{"id": "e", "row": {"user": "u0", "time": START + 13 * DAY, "word": "rent"}}]}
CALLS = {
    "embed": ("POST", "/v1/embed", COFFEE),
    "embed others": ("POST", "/v1/embed", COFFEE | {"scenarios": ["coffee", "rent"]}),
    "embed freely": ("POST", "/v1/embed", COFFEE | {"queries": [FREE]}),
    "score": ("POST", "/v1/score", COFFEE),
    "search": ("POST", "/v1/search", {"scenario": "coffee", "user_id": "u0"}),
    "attention": ("POST", "/v1/attention", COFFEE),
    "attention to others": ("POST", "/v1/attention", COFFEE | {"scenarios": ["rent"]}),
    "attention freely": ("POST", "/v1/attention", COFFEE | {"queries": [FREE]}),
    "statements": ("POST", "/v1/statements", {"user_ids": ["u0"], "scenario": "coffee", "statements": ["buys tea"]}),
    "statements freely": ("POST", "/v1/statements", {"user_ids": ["u0"], "query": FREE, "statements": ["buys tea"]}),
    "append": ("POST", "/v1/events", EVENTS),
    "register": ("POST", "/v1/scenarios", {"name": "x", "query": "y?"}),
    "forget": ("DELETE", "/v1/users/nobody", None),
    "timeline": ("GET", "/v1/users/u0/events", None),
    "scenarios": ("GET", "/v1/scenarios", None),
    "status": ("GET", "/v1/status", None),
    "verify": ("POST", "/v1/audit/verify", None),
    "metrics": ("GET", "/metrics", None),
}
MAY = {
    "coffee only": {"embed", "score", "search", "attention", "statements", "scenarios", "status"},
    "appends": {"append", "scenarios", "status"},
    "admin": {"register", "timeline", "scenarios", "status", "verify", "metrics"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def client(tmp_path_factory, folder):
    with serving(refreshed(tmp_path_factory.mktemp("world")), folder, scopes=SCOPES) as client:
        yield client


def status(client, call, key):
    method, path, body = CALLS[call]
    headers = {"authorization": key if key is None else f"Bearer {key}"}
    return client.request(method, path, json=body, headers={k: v for k, v in headers.items() if v}).status_code


def test_nobody_gets_in_without_a_good_key(client):
    good = client.headers.pop("authorization")
    try:
        for call in CALLS:
            assert status(client, call, None) == 401
            assert status(client, call, client.keys["admin"][:-1] + "0f"[client.keys["admin"][-1] == "0"]) == 401
        routes = {(m, r.path) for r in client.app.routes for m in getattr(r, "methods", ())}
        opened = {("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz")}
        tried = {
            (method, path.replace("nobody", "{user_id:path}").replace("u0", "{user_id:path}"))
            for method, path, _ in CALLS.values()
        }
        docs = {(m, p) for m in ("GET", "HEAD") for p in ("/docs", "/openapi.json", "/docs/oauth2-redirect")}
        assert routes - docs == tried | opened  # a new route has to be entered here
    finally:
        client.headers["authorization"] = good


@pytest.mark.parametrize("name", SCOPES)
def test_a_key_does_what_its_scopes_say_and_nothing_else(client, name):
    for call in CALLS:
        found = status(client, call, client.keys[name])
        assert (found != 403) == (call in MAY[name]), call
        assert found in (200, 201, 403, 409)


def test_what_was_done_is_written_down_without_users(client, folder):
    lines = [json.loads(line) for line in (folder / "audit" / "000000000001.jsonl").read_text().splitlines()]
    before = len(lines)
    client.post("/v1/embed", json=COFFEE)
    client.post("/v1/embed", json=COFFEE | {"queries": [FREE]})
    client.post("/v1/events", json=EVENTS)
    client.post("/v1/attention", json=COFFEE | {"queries": [FREE]})
    client.post("/v1/attention", json=COFFEE, headers={"authorization": f"Bearer {client.keys['appends']}"})
    client.post("/v1/statements", json=CALLS["statements"][2])
    client.post("/v1/audit/verify")
    lines = [json.loads(line) for line in (folder / "audit" / "000000000001.jsonl").read_text().splitlines()]
    done = [(line["verb"], line["scenarios"], line["users"], line["outcome"]) for line in lines[before:]]
    assert done[:2] == [("embed", ["coffee"], 1, "ok"), ("embed", ["coffee", "*"], 1, "ok")]
    assert done[2][0] == "append"
    assert done[3:] == [
        ("attention", ["coffee", "*"], 1, "ok"),
        ("embed", ["coffee"], 1, "refused"),
        ("statements", ["coffee"], 1, "ok"),
        ("verify", [], 0, "ok"),
    ]
    assert "u0" not in json.dumps(lines)


def test_without_probes_the_reply_says_how_to_get_them(client):
    reply = client.post("/v1/score", json=COFFEE)
    assert reply.status_code == 409
    assert "qanchor probes" in reply.json()["error"]


def test_no_auth_is_for_this_machine_only(tmp_path):
    with pytest.raises(ConfigError, match=r"--no-auth on 0\.0\.0\.0"):
        serve(None, "0.0.0.0", 0, tmp_path / "keys.json", tmp_path / "audit", None, "qanchor", None, True, 1, 1)
    with pytest.raises(ConfigError, match="no API key"):
        serve(None, "127.0.0.1", 0, tmp_path / "keys.json", tmp_path / "audit", None, "qanchor", None, False, 1, 1)
    assert "--no-auth" in CliRunner().invoke(cli, ["serve", "--help"]).output


def test_one_key_that_asks_too_much_waits(tmp_path, client):
    limits = client.app.state.door.limits
    limits.rate, limits.burst, kept = 1.0, 2.0, (limits.rate, limits.burst)
    try:
        replies = [client.post("/v1/embed", json=COFFEE) for _ in range(4)]
    finally:
        limits.rate, limits.burst = kept
        limits._full_at.clear()
    assert [reply.status_code for reply in replies] == [200, 200, 429, 429]
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert client.post("/v1/embed", json=COFFEE).status_code == 200


def test_a_body_that_is_too_large_is_not_read(client):
    reply = client.post("/v1/events", content=b"x" * (9 << 20), headers={"content-type": "application/json"})
    assert reply.status_code == 413
    chunks = (b" " * (1 << 20) for _ in range(100))
    reply = client.post("/v1/events", content=chunks, headers={"content-type": "application/json"})
    assert reply.status_code == 413


def test_past_capacity_503_and_then_well_again(client):
    """The model is held up; requests pile up to the limit, the rest are told to come again."""
    batcher, hold = client.service.batcher, threading.Event()
    batcher._limit, kept = 3, batcher._limit
    asked = {"user_ids": ["u0"], "queries": [FREE]}
    try:
        batcher.thread.submit(hold.wait)
        replies: list[httpx2.Response] = []
        threads = [
            threading.Thread(target=lambda: replies.append(client.post("/v1/embed", json=asked))) for _ in range(9)
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        hold.set()
        for thread in threads:
            thread.join()
    finally:
        hold.set()
        batcher._limit = kept
    busy = [reply for reply in replies if reply.status_code == 503]
    assert len(busy) == 5  # one at the model, three in the queue
    assert all(reply.headers["retry-after"] == "1" for reply in busy)
    assert sum(reply.status_code == 200 for reply in replies) == 4
    assert client.post("/v1/embed", json=asked).status_code == 200


def test_who_is_gone_costs_nothing():
    worked = []

    def work(items):
        worked.extend(items)
        return items

    async def run():
        batcher = Batcher(work, waiting=4)
        hold = threading.Event()
        batcher.thread.submit(hold.wait)
        first = batcher.submit(["at the model"])
        await asyncio.sleep(0.05)
        leaving, staying = batcher.submit(["leaves", "leaves too"]), batcher.submit(["stays"])
        for future in leaving:
            future.cancel()
        batcher.submit(["comes in its place", "and another"])
        with pytest.raises(BusyError, match="wait for the model"):
            batcher.submit(["one", "too", "many", "more"])
        hold.set()
        await asyncio.gather(*first, *staying)
        await batcher.close()

    asyncio.run(run())
    assert "stays" in worked
    assert "leaves" not in worked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


SAME = settings(
    derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
"""The same requests in every run."""


def bodies(schema, components):
    """Requests that look like what the OpenAPI asks for, but for one thing or two that are anything."""

    def like(part):
        part = components[part["$ref"].rsplit("/", 1)[1]] if "$ref" in part else part
        if "anyOf" in part:
            return st.one_of([like(option) for option in part["anyOf"]])
        if "enum" in part or "const" in part:
            return st.sampled_from(part.get("enum", [part.get("const")]))
        if part.get("type") == "object":
            properties = {name: mixed(inner) for name, inner in part.get("properties", {}).items()}
            return st.fixed_dictionaries({}, optional=properties) if properties else st.dictionaries(st.text(), JSON)
        if part.get("type") == "array":
            return st.lists(mixed(part["items"]), max_size=3)
        words = ["u0", "coffee", "bill", "now", "2025-03-13T00:00:00Z", "word", "\ud800", "", "0" * 300]
        kinds = {
            "string": st.sampled_from(words) | st.text(max_size=9),
            "integer": st.integers(),
            "number": st.floats(),
        }
        return kinds.get(part.get("type", ""), JSON)

    def mixed(part):
        return st.integers(0, 5).flatmap(lambda n: JSON if n == 0 else like(part))

    return like(schema)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_thousand_malformed_requests_are_refused_with_the_reason(client, folder, caplog):
    api = client.get("/openapi.json").json()
    components = api["components"]["schemas"]
    posts = {
        path: bodies(verbs["post"]["requestBody"]["content"]["application/json"]["schema"], components)
        for path, verbs in api["paths"].items()
        if "requestBody" in verbs.get("post", {})
    }
    assert len(posts) == 7
    seen = []
    inside = ("Traceback", 'File "', ".py", "site-packages", str(client.service.config.root), str(folder))

    def check(reply):
        seen.append(reply.status_code)
        assert reply.status_code in (200, 201, 400, 404, 405, 409, 422), reply.text
        assert not [word for word in inside if word in reply.text]
        if reply.status_code >= 400:
            assert reply.json()["error"]

    @settings(SAME, max_examples=700)
    @given(st.sampled_from(sorted(posts)).flatmap(lambda path: st.tuples(st.just(path), posts[path])))
    def like_a_request(asked):
        path, body = asked
        check(client.post(path, content=json.dumps(body), headers={"content-type": "application/json"}))

    @settings(SAME, max_examples=180)
    @given(st.sampled_from(sorted(posts)), st.binary(max_size=40), st.sampled_from(["application/json", "text/plain"]))
    def no_request_at_all(path, body, kind):
        check(client.post(path, content=body, headers={"content-type": kind}))

    @settings(SAME, max_examples=120)
    @given(st.sampled_from(["..", "%2e%2e/", "%00", "%ff", "a%2Fb", "é", "x" * 300]), st.text(max_size=5))
    def paths(word, as_of):
        check(client.get(f"/v1/users/{word}/events", params={"as_of": as_of}))

    with caplog.at_level(logging.ERROR, "qanchor.serving"):
        like_a_request()
        no_request_at_all()
        paths()
    assert not caplog.records
    assert len(seen) >= 1000
    assert seen.count(422) > 200


def test_a_token_gets_in_where_tokens_are_taken(client):
    class Tokens:
        def principal(self, token):
            if token != "good":
                raise CredentialError("token refused (bad signature)")
            return Principal("token:team", frozenset({"embed:coffee"}))

    door = client.app.state.door
    door.tokens = Tokens()
    try:
        assert status(client, "embed", "good") == 200
        assert status(client, "embed others", "good") == 403
        assert status(client, "embed", "forged") == 401
        assert status(client, "embed", client.keys["coffee only"]) == 200
    finally:
        door.tokens = None


def test_while_the_keys_cannot_be_read_nobody_gets_in(client, folder):
    path = folder / "keys.json"
    kept = path.read_bytes()
    path.write_text("not JSON")
    try:
        reply = client.post("/v1/embed", json=COFFEE)
    finally:
        path.write_bytes(kept)
    assert reply.status_code == 503
    assert "keys.json" not in reply.text
    assert client.post("/v1/embed", json=COFFEE).status_code == 200
