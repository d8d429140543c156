"""The vault: what it sealed opens in its place, and nothing else opens anywhere."""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.cli import main
from qanchor.errors import ConfigError, SealError
from qanchor.events import master_key
from qanchor.events.master_key import LocalKey, key_from_environment, key_from_file, make_key_file
from qanchor.events.vault import HEADER, TAG, Box, Vault, context

OLD, NEW = LocalKey(b"o" * 32), LocalKey(b"n" * 32)
BOX = Box({b"k" * 8: b"d" * 32})
PLACE = context("u1", "takeout")


@settings(deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=40))
def test_what_is_sealed_opens_in_its_place_and_shows_nothing(plain, place):
    sealed = BOX.seal(plain, place)
    assert BOX.open(sealed, place) == plain
    assert len(sealed) == HEADER + len(plain) + TAG
    assert len(plain) < 4 or plain not in sealed
    assert BOX.seal(plain, place) != sealed


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60), st.data())
def test_no_changed_bit_no_cut_and_no_other_place_opens(plain, data):
    sealed = BOX.seal(plain, PLACE)
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    changed = bytearray(sealed)
    changed[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for blob, place in (
        (bytes(changed), PLACE),
        (sealed[:cut], PLACE),
        (sealed[len(sealed) - cut :], PLACE),
        (sealed + b"\0", PLACE),
        (sealed, context("u2", "takeout")),
        (sealed, context("u1", "churn")),
        (sealed, b""),
    ):
        with pytest.raises(SealError):
            BOX.open(blob, place)


@settings(deadline=None)
@given(st.lists(st.text(max_size=4), max_size=4), st.lists(st.text(max_size=4), max_size=4))
def test_two_places_are_two_contexts(a, b):
    assert (context(*a) == context(*b)) == (a == b)


def test_shards_have_keys_of_their_own_and_find_them_again(tmp_path):
    path = tmp_path / "vault.json"
    vault = Vault(path, OLD)
    sealed = vault.box("shard=0").seal(b"events", PLACE)
    assert Vault(path, OLD).box("shard=0").open(sealed, PLACE) == b"events"
    with pytest.raises(SealError):
        vault.box("shard=1").open(sealed, PLACE)


def test_renewing_seals_by_another_key_and_opens_by_both(tmp_path):
    vault = Vault(tmp_path / "vault.json", OLD)
    before = vault.box("shard=0")
    old = before.seal(b"events", PLACE)
    after = vault.renew("shard=0")
    new = after.seal(b"events", PLACE)
    assert old[:9] != new[:9]
    assert after.open(old, PLACE) == after.open(new, PLACE) == b"events"
    with pytest.raises(SealError):
        before.open(new, PLACE)


def test_another_master_key_wraps_anew_and_touches_no_data(tmp_path):
    path = tmp_path / "vault.json"
    vault, serving = Vault(path, OLD), Vault(path, OLD)
    box = serving.box("shard=0")
    blob = tmp_path / "blob"
    blob.write_bytes(box.seal(b"events", PLACE))
    vault.box("shard=1")
    stat, wrapped = blob.stat(), path.read_bytes()
    assert vault.rotate(NEW) == 2
    assert blob.stat() == stat
    assert Vault(path, NEW).box("shard=0").open(blob.read_bytes(), PLACE) == b"events"
    # a service that was running goes on, but makes no data key by the old master
    assert box.open(box.seal(b"more", PLACE), PLACE) == b"more"
    for late in (serving.box, serving.renew):
        with pytest.raises(ConfigError, match="wrapped by"):
            late("shard=9")
    with pytest.raises(ConfigError):
        Vault(path, OLD)
    # nor does anything of the old wrapping open by the new key
    path.write_bytes(wrapped.replace(OLD.name.encode(), NEW.name.encode()))
    with pytest.raises(SealError):
        Vault(path, NEW).box("shard=0")


def test_data_keys_that_changed_places_do_not_unwrap(tmp_path):
    path = tmp_path / "vault.json"
    vault = Vault(path, OLD)
    vault.box("a"), vault.box("b")
    held = json.loads(path.read_text())
    a, b = held["keys"].values()
    a["wrapped"], b["wrapped"] = b["wrapped"], a["wrapped"]
    path.write_text(json.dumps(held))
    with pytest.raises(SealError):
        vault.box("a")


def test_a_key_service_that_never_shows_its_key(tmp_path):
    class Service:
        name = "kms:test"

        def wrap(self, data_key, context):
            return OLD.wrap(data_key, b"kms" + context)

        def unwrap(self, wrapped, context):
            return OLD.unwrap(wrapped, b"kms" + context)

    path = tmp_path / "vault.json"
    sealed = Vault(path, OLD).box("a").seal(b"events", PLACE)
    Vault(path, OLD).rotate(Service())
    assert Vault(path, Service()).box("a").open(sealed, PLACE) == b"events"


def test_first_use_by_many_at_once_makes_one_key(tmp_path):
    sealed, path = [], tmp_path / "vault.json"
    threads = [
        threading.Thread(target=lambda: sealed.append(Vault(path, OLD).box("a").seal(b"events", PLACE)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({blob[:9] for blob in sealed}) == 1
    assert {Vault(path, OLD).box("a").open(blob, PLACE) for blob in sealed} == {b"events"}


def test_a_master_key_comes_from_a_file_that_only_its_owner_reads_or_from_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "master"
    key = make_key_file(path)
    assert key_from_file(path) == key
    assert base64.b64encode(key.secret).decode() not in repr(key)
    assert str(key.secret) not in repr(key)
    with pytest.raises(ConfigError, match="exists"):
        make_key_file(path)
    for mode in (0o640, 0o604, 0o660):
        os.chmod(path, mode)
        with pytest.raises(ConfigError, match="open to others"):
            key_from_file(path)
    monkeypatch.setenv(master_key.VARIABLE, path.read_text())
    assert key_from_environment() == key
    for wrong in ("", "secret!", base64.b64encode(b"short").decode()):
        monkeypatch.setenv(master_key.VARIABLE, wrong)
        with pytest.raises(ConfigError) as error:
            key_from_environment()
        assert not wrong or wrong not in str(error.value)
    monkeypatch.delenv(master_key.VARIABLE)
    with pytest.raises(ConfigError):
        key_from_environment()


def test_the_command_line_makes_a_master_key_and_changes_it(tmp_path, capsys):
    old, new, path = (str(tmp_path / name) for name in ("old", "new", "vault.json"))
    for command in (["vault", "key", old], ["vault", "key", new]):
        with pytest.raises(SystemExit, match="0"):
            main(command)
    sealed = Vault(Path(path), key_from_file(Path(old))).box("a").seal(b"events", PLACE)
    with pytest.raises(SystemExit, match="0"):
        main(["vault", "rotate", old, new, "--vault", path])
    assert Vault(Path(path), key_from_file(Path(new))).box("a").open(sealed, PLACE) == b"events"
    assert Path(new).read_text().strip() not in capsys.readouterr().out
