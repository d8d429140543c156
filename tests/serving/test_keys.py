"""API keys: what gets in, what does not, and that a change holds at once."""

from __future__ import annotations

import hmac
import json
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest

from qanchor.cli import main
from qanchor.errors import ConfigError, CredentialError, ScopeError
from qanchor.serving import keys as keys_module
from qanchor.serving.keys import Keys
from qanchor.serving.principal import ANY, SCENARIO_VERBS, VERBS, Principal, checked

DAY = timedelta(days=1)


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys.json")


def test_a_key_lets_its_holder_do_what_it_is_scoped_to_and_nothing_else(keys):
    new = keys.add("web", ["embed:takeout", "embed:churn", "append"], DAY)
    principal = keys.principal(new.reveal())
    principal.require("append")
    principal.require("embed", "takeout", "churn")
    refused = [
        ("embed", "takeout", "fraud"),
        ("embed", ANY),  # a query in free words
        ("embed",),  # a caller that forgot the scenarios
        ("score", "takeout"),
        ("search", ANY),
        ("forget",),
        ("admin",),
        ("append:takeout",),
        ("",),
    ]
    for request in refused:
        with pytest.raises(ScopeError):
            principal.require(*request)


def test_admin_and_all_scenarios_grant_no_other_verb():
    for scopes, granted in ((["admin"], {"admin"}), (["embed:*"], {"embed"}), ([], set())):
        principal = Principal("key:x", frozenset(scopes))
        for verb in VERBS:
            asked = [verb, ANY] if verb in SCENARIO_VERBS else [verb]
            if verb in granted:
                principal.require(*asked)
                continue
            with pytest.raises(ScopeError):
                principal.require(*asked)


@pytest.mark.parametrize("scopes", [[], ["embed"], ["embed:"], ["append:x"], ["*"], ["read"], ["append", "Admin"]])
def test_scopes_that_mean_nothing_are_refused_when_typed(scopes):
    with pytest.raises(ConfigError):
        checked(scopes)


def test_the_secret_is_in_no_file_and_in_no_repr(keys):
    new = keys.add("web", ["append"], DAY)
    assert len(bytes.fromhex(new.secret)) == 32
    assert new.secret not in keys.path.read_text()
    assert new.secret not in f"{new!r} {new} {keys.principal(new.reveal())!r} {keys.records()}"


def test_wrong_expired_and_revoked_keys_are_refused(keys):
    good, old, gone = (keys.add(name, ["append"], life) for name, life in (("a", DAY), ("b", -DAY), ("c", DAY)))
    keys.revoke(gone.id)
    wrong = [
        "",
        "qa_",
        good.reveal() + "\n",
        good.reveal().upper(),
        good.reveal()[:-1],
        f"qa_{good.id}_{old.secret}",
        f"qa_{'0' * 12}_{good.secret}",
        f"qa_{good.id}_{'٣' * 64}",
        old.reveal(),
        gone.reveal(),
    ]
    for key in wrong:
        with pytest.raises(CredentialError):
            keys.principal(key)
    assert keys.principal(good.reveal()).who == f"key:{good.id}"
    with pytest.raises(ConfigError):
        keys.rotate(gone.id, DAY)


def test_an_unknown_id_and_a_wrong_secret_take_one_path_through_a_constant_time_comparison(keys, monkeypatch):
    good = keys.add("web", ["append"], DAY)
    compared = []

    def compare(a, b):
        compared.append((len(a), len(b)))
        return hmac.compare_digest(a, b)

    monkeypatch.setattr(keys_module, "hmac", SimpleNamespace(compare_digest=compare))
    words = []
    for key in (f"qa_{good.id}_{'0' * 64}", f"qa_{'0' * 12}_{good.secret}"):
        with pytest.raises(CredentialError) as error:
            keys.principal(key)
        words.append(str(error.value))
    assert compared == [(64, 64)] * 2
    assert words[0] == words[1]


def test_changes_by_another_process_hold_from_the_next_request(keys):
    other = Keys(keys.path)
    first = other.add("web", ["append"], DAY)
    keys.principal(first.reveal())
    second = other.rotate(first.id, timedelta(hours=1))
    assert keys.principal(second.reveal()).scopes == keys.principal(first.reveal()).scopes
    other.rotate(second.id, timedelta(0))
    other.revoke(first.id)
    for key in (first, second):
        with pytest.raises(CredentialError):
            keys.principal(key.reveal())


def test_a_file_that_cannot_be_read_lets_nobody_in(keys):
    new = keys.add("web", ["append"], DAY)
    keys.principal(new.reveal())
    whole = keys.path.read_text()
    for broken in (whole[:-10], "[]", json.dumps({"keys": {new.id: {"name": "web"}}}), whole.replace("Z", "")):
        keys.path.write_text(broken)
        with pytest.raises(ConfigError):
            keys.principal(new.reveal())
    keys.path.unlink()
    with pytest.raises(CredentialError):
        keys.principal(new.reveal())


def test_keys_added_at_once_are_all_there(keys):
    def add():
        Keys(keys.path).add("web", ["append"], DAY)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys.records()) == 8


def test_the_command_line_shows_a_key_once(keys, capsys):
    where = ["--keys", str(keys.path)]
    with pytest.raises(SystemExit, match="0"):
        main(["keys", "add", "web", "--scope", "embed:takeout", "-s", "append", *where])
    first = capsys.readouterr().out.strip()
    (id,) = keys.records()
    assert keys.principal(first).scopes == {"embed:takeout", "append"}
    for command in (["rotate", id, "--hours", "0"], ["list"], ["list", "--json"], ["revoke", id]):
        with pytest.raises(SystemExit, match="0"):
            main(["keys", *command, *where])
    out = capsys.readouterr().out
    assert "expired" in out
    assert first not in out
    assert keys.principal(out.splitlines()[0]).who != f"key:{id}"


def test_the_command_line_finds_the_file_where_serve_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = {"name": "shop", "sources": [{"path": "a.csv", "user": "u", "time": "t", "modality": "m", "text": "{x}"}]}
    config["windows"] = {"train": ["2025-01-01"], "validation": ["2025-01-01"], "test": ["2025-03-01"]}

    def add(*options: str) -> None:
        with pytest.raises(SystemExit, match="0"):
            main(["keys", "add", "me", "-s", "append", *options])

    add()
    add("--out", "elsewhere")
    (tmp_path / "qanchor.yaml").write_text(json.dumps(config))
    add()
    (tmp_path / "qanchor.yaml").rename(tmp_path / "other.yaml")
    add("-c", "other.yaml")
    add("--keys", "own.json")
    found = {path: len(Keys(tmp_path / path).records()) for path in ("serving/keys.json", "own.json")}
    found |= {path: len(Keys(tmp_path / path / "serving/keys.json").records()) for path in ("elsewhere", "runs/shop")}
    assert found == {"serving/keys.json": 1, "own.json": 1, "elsewhere": 1, "runs/shop": 2}
    with pytest.raises(SystemExit, match="1"):
        main(["vault", "rotate", "old", "new", "--out", "elsewhere"])
    assert "no vault at elsewhere/serving/vault.json" in capsys.readouterr().err
