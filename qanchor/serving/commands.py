"""The command line's verbs for keys, vault and audit log: no logic."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from qanchor.errors import ConfigError

keys_app = typer.Typer(no_args_is_help=True, help="API keys: add, list, revoke, rotate.")
vault_app = typer.Typer(no_args_is_help=True, help="Encryption at rest: make a master key, change it.")
audit_app = typer.Typer(no_args_is_help=True, help="The audit log: verify.")
KeysOption = Annotated[Path | None, typer.Option("--keys", help="The file of the keys' hashes, instead of the run's.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The project's YAML: its run is runs/NAME.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", help="The run folder, as `serve` is given.")]


def _serving(config: Path | None, out: Path | None) -> Path:
    """`serving/` of the run folder; that of this folder, where neither it nor a config is named or lies here."""
    if out is None and config is None and not Path("qanchor.yaml").exists():
        return Path("serving")
    if out is None:
        from qanchor.config import load

        out = Path("runs") / load(config or Path("qanchor.yaml")).name
    return out / "serving"


@keys_app.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Whom or what the key is for.")],
    scope: Annotated[list[str], typer.Option("--scope", "-s", help="embed:SCENARIO, embed:*, append...; repeat it.")],
    days: Annotated[int, typer.Option(min=1, help="Days until it expires.")] = 90,
    keys: KeysOption = None,
    config: ConfigOption = None,
    out: OutOption = None,
) -> None:
    """Make a key and show it, this once."""
    from qanchor.serving.keys import Keys

    print(Keys(keys or _serving(config, out) / "keys.json").add(name, scope, timedelta(days=days)).reveal())
    print("Keep it now: it is not shown again.", file=sys.stderr)


@keys_app.command("list")
def list_keys(
    keys: KeysOption = None,
    config: ConfigOption = None,
    out: OutOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every key: id, state, expiry, name, scopes."""
    from datetime import UTC, datetime

    from qanchor.serving.keys import Keys

    now = datetime.now(UTC)
    rows = [
        {"id": id, "state": key.state(now), "expires": f"{key.expires:%Y-%m-%d %H:%M}", "name": key.name}
        | {"scopes": key.scopes}
        for id, key in Keys(keys or _serving(config, out) / "keys.json").records().items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['id']}  {row['state']:7}  {row['expires']}  {row['name']}  {' '.join(row['scopes'])}")


@keys_app.command("revoke")
def revoke_key(
    id: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.")],
    keys: KeysOption = None,
    config: ConfigOption = None,
    out: OutOption = None,
) -> None:
    """Refuse a key from now on."""
    from qanchor.serving.keys import Keys

    Keys(keys or _serving(config, out) / "keys.json").revoke(id)
    print(f"revoked {id}")


@keys_app.command("rotate")
def rotate_key(
    id: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.")],
    hours: Annotated[int, typer.Option(min=0, help="Hours for which the old key still holds.")] = 24,
    keys: KeysOption = None,
    config: ConfigOption = None,
    out: OutOption = None,
) -> None:
    """Make another key with the same scopes, show it, and let the old one end."""
    from qanchor.serving.keys import Keys

    print(Keys(keys or _serving(config, out) / "keys.json").rotate(id, timedelta(hours=hours)).reveal())
    print(f"Keep it now: it is not shown again. {id} holds for {hours} hours more.", file=sys.stderr)


@vault_app.command("key")
def make_master_key(path: Annotated[Path, typer.Argument(help="A new file, apart from the data.")]) -> None:
    """Make a master key in a file that only you may read."""
    from qanchor.events.master_key import make_key_file

    print(f"wrote {path} ({make_key_file(path).name}): losing it loses the data that it seals")


@vault_app.command("rotate")
def rotate_master_key(
    old: Annotated[Path, typer.Argument(help="File of the master key in use.")],
    new: Annotated[Path, typer.Argument(help="File of the next one.")],
    vault: Annotated[Path | None, typer.Option("--vault", help="The vault's file, instead of the run's.")] = None,
    config: ConfigOption = None,
    out: OutOption = None,
) -> None:
    """Wrap the data keys by another master key; no data is touched."""
    from qanchor.events.master_key import key_from_file
    from qanchor.events.vault import Vault

    path = vault or _serving(config, out) / "vault.json"
    if not path.exists():
        raise ConfigError(f"no vault at {path}: name the run folder by `--out`, or the file by `--vault`")
    count = Vault(path, key_from_file(old)).rotate(key_from_file(new))
    print(f"{count} data keys are wrapped by {new}; start the service with it next time")


@audit_app.command("verify")
def verify_audit(
    folder: Annotated[Path | None, typer.Argument(help="The log's folder, instead of the run's.")] = None,
    config: ConfigOption = None,
    out: OutOption = None,
    first: Annotated[int, typer.Option("--from", min=1, help="The first line that is not archived.")] = 1,
    head: Annotated[Path | None, typer.Option(help="A copy of an earlier head.json, from elsewhere.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find any edited, dropped or reordered line, and a cut-off end; QANCHOR_AUDIT_KEY checks the head's signature."""
    from dataclasses import asdict

    from qanchor.errors import AuditError
    from qanchor.serving.audit import key_from_environment
    from qanchor.serving.trail import verify

    folder = folder or _serving(config, out) / "audit"
    key = key_from_environment()
    trail = verify(folder, key, first, head)
    if as_json:
        print(json.dumps(asdict(trail) | {"signature_checked": key is not None}))
    else:
        for problem in trail.problems[:20]:
            print(problem)
        signature = "checked" if key else "not checked: set QANCHOR_AUDIT_KEY"
        print(f"lines {trail.first} to {trail.last}, {trail.past_head} of them past the head, {trail.torn} bytes torn")
        print(f"the head's signature is {signature}")
    if trail.problems:
        raise AuditError(f"{folder}: {len(trail.problems)} problems; the log was sound up to line {trail.sound.n}")
