"""The audit log: every acknowledged line stays, and no change goes unseen."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.cli import main
from qanchor.errors import AuditError, ConfigError
from qanchor.serving import audit as audit_module
from qanchor.serving import trail as trail_module
from qanchor.serving.audit import Audit, Entry, key_from_environment
from qanchor.serving.trail import HEAD, Head, hash_of, starts, verify

KEY = b"k" * 32
ENTRY = Entry("key:1", "embed", ("takeout",), 3, "ok")


def written(folder: Path, lines: int, key: bytes | None = KEY, largest: int = 1 << 20) -> Path:
    audit = Audit(folder, key, largest)
    for n in range(lines):
        audit.write(Entry(f"key:{n}", "embed", ("takeout",), n, "ok")).result()
    audit.close()
    return folder


def lines_of(folder: Path) -> list[bytes]:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl"))).splitlines(keepends=True)


def test_a_whole_log_is_whole_over_files_and_openings(tmp_path):
    for _ in range(3):
        written(tmp_path, 20, largest=1000)
    trail = verify(tmp_path, KEY)
    assert (trail.first, trail.last, trail.problems, trail.torn, trail.past_head) == (1, 60, (), 0, 0)
    assert len(starts(tmp_path)) > 5
    records = [json.loads(line) for line in lines_of(tmp_path)]
    assert [record["users"] for record in records] == [*range(20)] * 3
    assert records[0].keys() == {"n", "prev", "at", "who", "verb", "scenarios", "users", "outcome"}


def test_archived_files_may_be_gone_where_one_says_so(tmp_path):
    written(tmp_path, 30, largest=1000)
    oldest, second, *_ = starts(tmp_path)
    trail_module.file_of(tmp_path, oldest).unlink()
    assert not verify(tmp_path, KEY, first=second).problems
    assert verify(tmp_path, KEY).problems


LINES = 12


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return written(tmp_path_factory.mktemp("audit"), LINES)


def edit(lines, data):
    n = data.draw(st.integers(0, LINES - 1))
    record = json.loads(lines[n])
    field, value = data.draw(
        st.sampled_from([("who", "key:x"), ("users", 99), ("at", "2020-01-01"), ("outcome", "no")])
    )
    lines[n] = json.dumps(record | {field: value}).encode() + b"\n"


def flip(lines, data):
    n = data.draw(st.integers(0, LINES - 1))
    line = bytearray(lines[n])
    line[data.draw(st.integers(0, len(line) - 2))] ^= 1 << data.draw(st.integers(0, 7))
    lines[n] = bytes(line)


def drop(lines, data):
    first = data.draw(st.integers(0, LINES - 1))
    del lines[first : data.draw(st.integers(first + 1, LINES))]


def swap(lines, data):
    a, b = sorted(data.draw(st.lists(st.integers(0, LINES - 1), min_size=2, max_size=2, unique=True)))
    lines[a], lines[b] = lines[b], lines[a]


def repeat(lines, data):
    lines.insert(data.draw(st.integers(0, LINES)), lines[data.draw(st.integers(0, LINES - 1))])


def forge(lines, data):
    """Edit a line and chain all that follow anew, as one would who may write the folder."""
    edit(lines, data)
    prev = "0" * 64
    for n, line in enumerate(lines):
        lines[n] = json.dumps(json.loads(line) | {"n": n + 1, "prev": prev}).encode() + b"\n"
        prev = hash_of(lines[n][:-1])


def forge_with_head(lines, data):
    forge(lines, data)
    return Head(LINES, hash_of(lines[-1][:-1]))


@settings(max_examples=150, deadline=None)
@given(change=st.sampled_from([edit, flip, drop, swap, repeat, forge, forge_with_head]), data=st.data())
def test_every_change_is_found(original, change, data):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(original, folder, dirs_exist_ok=True)
        (path,) = folder.glob("*.jsonl")
        lines = path.read_bytes().splitlines(keepends=True)
        head = change(lines, data)
        path.write_bytes(b"".join(lines))
        if head:
            head.save(folder, None)
        trail = verify(folder, KEY)
        assert trail.problems
        if change is not repeat or trail.sound.n < LINES:
            # the writer does not go on behind a changed log, nor mend it
            with pytest.raises(AuditError):
                Audit(folder, KEY)
            return
        # the head's last line doubled: as after a kill, what is past the head goes, and a line says so
        Audit(folder, KEY).close()
        assert (verify(folder, KEY).last, verify(folder, KEY).problems) == (LINES + 1, ())


def test_what_is_removed_is_found(original, tmp_path):
    for gone in (HEAD, "000000000001.jsonl"):
        folder = tmp_path / gone
        shutil.copytree(original, folder)
        (folder / gone).unlink()
        assert verify(folder, KEY).problems
        with pytest.raises(AuditError):
            Audit(folder, KEY)


@pytest.mark.parametrize("head", ['{"n": 12, "hash": "é", "mac": "é"}', '{"n": 12}', "[]", ""])
def test_a_head_that_nobody_wrote_is_refused(original, tmp_path, head):
    folder = shutil.copytree(original, tmp_path / "log")
    (folder / HEAD).write_text(head, encoding="utf-8")
    assert verify(folder, KEY).problems
    with pytest.raises(AuditError):
        Audit(folder, KEY)


@pytest.mark.parametrize("start", [5, LINES + 2, 10**9])
def test_an_empty_file_that_the_writer_did_not_begin_is_refused(original, tmp_path, start):
    folder = shutil.copytree(original, tmp_path / "log")
    trail_module.file_of(folder, start).touch()
    with pytest.raises(AuditError):
        Audit(folder, KEY)


def test_an_older_head_put_back_is_found_by_a_copy_kept_elsewhere_only(tmp_path):
    folder = written(tmp_path / "log", 3)
    shutil.copytree(folder, tmp_path / "older")
    written(folder, 3)
    kept = shutil.copy(folder / HEAD, tmp_path / "kept.json")
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "older", folder)
    assert not verify(folder, KEY).problems
    assert "cut off" in verify(folder, KEY, kept=kept).problems[0]


def test_a_head_is_signed_by_one_key(tmp_path):
    signed, plain = written(tmp_path / "signed", 2), written(tmp_path / "plain", 2, key=None)
    assert not verify(signed).problems
    assert verify(signed, b"x" * 32).problems
    assert verify(plain, KEY).problems
    for folder, key in ((signed, None), (signed, b"x" * 32), (plain, KEY)):
        with pytest.raises(AuditError):
            Audit(folder, key)


def test_one_process_writes(tmp_path):
    audit = Audit(tmp_path)
    with pytest.raises(AuditError, match="another process"):
        Audit(tmp_path)
    audit.close()
    with pytest.raises(AuditError, match="closed"):
        audit.write(ENTRY)
    Audit(tmp_path).close()


def test_the_head_follows_without_another_line(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "ANCHOR", 0.05)
    audit = Audit(tmp_path)
    audit.write(ENTRY).result()
    end = time.monotonic() + 10
    while verify(tmp_path).past_head and time.monotonic() < end:
        time.sleep(0.02)
    assert (verify(tmp_path).last, verify(tmp_path).past_head) == (1, 0)
    audit.close()


def test_who_has_gone_meanwhile_is_written_down_and_harms_nobody(tmp_path):
    audit = Audit(tmp_path)
    futures = [audit.write(ENTRY) for _ in range(200)]
    for future in futures[::2]:
        future.cancel()
    for future in futures[1::2]:
        future.result()
    audit.close()
    assert verify(tmp_path).last == 200


def test_a_disk_that_fails_fails_every_line_from_then_on(tmp_path, monkeypatch):
    audit = Audit(tmp_path)
    audit.write(ENTRY).result()

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(AuditError, match="No space"):
        audit.write(ENTRY).result()
    monkeypatch.undo()
    with pytest.raises(AuditError, match="No space"):
        audit.write(ENTRY).result()
    audit.close()
    Audit(tmp_path).close()
    assert not verify(tmp_path).problems


@pytest.mark.parametrize("garbage", [b'{"n": 4, "prev', b"\0" * 50, b'\0\0\n{"n": 9}\n'])
def test_what_a_kill_left_unfinished_is_cut_and_reported(tmp_path, garbage):
    written(tmp_path, 3)
    with (tmp_path / "000000000001.jsonl").open("ab") as file:
        file.write(garbage)
    assert verify(tmp_path, KEY).last >= 3
    Audit(tmp_path, KEY).close()
    trail = verify(tmp_path, KEY)
    assert (trail.last, trail.problems, trail.torn) == (4, (), 0)
    assert json.loads(lines_of(tmp_path)[-1])["outcome"].startswith(f"cut {len(garbage)} bytes")


def test_a_file_begun_and_still_empty_at_the_kill(tmp_path):
    written(tmp_path, 3)
    (tmp_path / "000000000004.jsonl").touch()
    written(tmp_path, 2)
    trail = verify(tmp_path, KEY)
    assert (trail.last, trail.problems) == (5, ())


WRITER = """
import sys, threading
from pathlib import Path
from qanchor.serving.audit import Audit, Entry

audit = Audit(Path(sys.argv[1]), b"k" * 32, largest=5000)

def work(name):
    for n in range(10**9):
        audit.write(Entry(f"{name}:{n}", "append", (), 1, "ok" * 50)).result()
        # one write: what is read on the other side was acknowledged
        sys.stdout.write(f"{name}:{n}\\n")
        sys.stdout.flush()

for name in "abcd":
    threading.Thread(target=work, args=(name,)).start()
"""


def test_kill_9_while_writing_loses_no_acknowledged_line(tmp_path):
    acknowledged = set()
    for run in range(3):
        folder = tmp_path / "log"
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True)
        for _ in range(150 + 37 * run):
            acknowledged.add(f"{run}:{writer.stdout.readline().strip()}")
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        acknowledged |= {f"{run}:{line}" for line in rest.splitlines(keepends=True) if line.endswith("\n")}
        acknowledged = {line.strip() for line in acknowledged}
        there = {json.loads(line)["who"] for line in lines_of(folder) if line.endswith(b"\n")}
        assert {line.split(":", 1)[1] for line in acknowledged if line.startswith(f"{run}:")} <= there
        Audit(folder, KEY).close()
        trail = verify(folder, KEY)
        assert not trail.problems
        assert trail.last >= len(acknowledged)


def test_the_command_line_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    folder = written(tmp_path, 5)
    monkeypatch.setenv("QANCHOR_AUDIT_KEY", "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=")
    assert key_from_environment() == KEY
    command = ["audit", "verify", str(folder)]
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 0
    path = folder / "000000000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"users": 2', b'"users": 1'))
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    assert "line 4 does not follow" in capsys.readouterr().out
    monkeypatch.setenv("QANCHOR_AUDIT_KEY", "short")
    with pytest.raises(ConfigError):
        key_from_environment()
