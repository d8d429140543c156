"""`qanchor serve`: one process, one event loop, one model."""

from __future__ import annotations

import gc
import ipaddress
import logging
from pathlib import Path

import uvicorn

from qanchor.daily import Daily
from qanchor.errors import ConfigError
from qanchor.serving.app import create
from qanchor.serving.audit import Audit, key_from_environment
from qanchor.serving.door import Door
from qanchor.serving.jwks import KeySet
from qanchor.serving.keys import Keys
from qanchor.serving.limits import Limits
from qanchor.serving.service import Service
from qanchor.serving.tokens import Tokens

CONNECTIONS = 2000
"""At once; more are refused."""


def serve(
    daily: Daily,
    host: str,
    port: int,
    keys: Path,
    audit: Path,
    issuer: str | None,
    audience: str,
    jwks: str | None,
    no_auth: bool,
    rate: float,
    warm_mb: int,
) -> None:
    """Answer until the process is told to end (SIGTERM, Ctrl-C): then finish what is begun.

    Raises:
        ConfigError: no auth on an address that others can reach, no keys, half of a token's settings.
        QAnchorError: no model, no store, an audit log that another process writes.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    if no_auth and not _is_loopback(host):
        raise ConfigError(f"--no-auth on {host}, which others can reach: expected 127.0.0.1, or keys")
    if bool(issuer) != bool(jwks):
        raise ConfigError("tokens need both --issuer and --jwks")
    known = Keys(keys)
    if not no_auth and not known.records() and not issuer:
        raise ConfigError(f"no API key in {keys}: `qanchor keys add NAME --scope 'embed:*'` makes one")
    tokens = Tokens(KeySet(jwks), issuer, audience) if issuer and jwks else None
    door = Door(None if no_auth else known, tokens, Limits(rate, 2 * rate), Audit(audit, key_from_environment()))
    app = create(Service(daily, warm_mb << 20), door)
    # what was imported stays: a collection that walks through all of torch would hold up every request
    gc.collect()
    gc.freeze()
    uvicorn.run(
        app,
        host=host,
        port=port,
        access_log=False,  # paths hold users' ids; metrics and the audit log have the rest
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=20,
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
