"""`qanchor serve`: one process, one event loop, one model."""

from __future__ import annotations

import gc
import ipaddress
import logging
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

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

log = logging.getLogger("qanchor.serving")
CONNECTIONS = 2000
"""At once; more are refused."""


def serve(
    daily: Daily,
    host: str,
    port: int,
    keys: Path | None,
    audit: Path | None,
    issuer: str | None,
    audience: str,
    jwks: str | None,
    no_auth: bool,
    rate: float,
    warm_mb: int,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> None:
    """Answer until the process is told to end (SIGTERM, Ctrl-C): then finish what is begun.

    `keys` and `audit` lie in `serving/` of the run folder unless given. With `tls_cert` (PEM, the chain included) and
    `tls_key` over HTTPS only, TLS 1.2 or newer.

    Raises:
        ConfigError: one half of TLS's files, or files that are no certificate and its key; no auth on an address that
            others can reach, no keys, half of a token's settings.
        QAnchorError: no model, no store, an audit log that another process writes.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    if no_auth and not _is_loopback(host):
        raise ConfigError(f"--no-auth on {host}, which others can reach: expected 127.0.0.1, or keys")
    if bool(issuer) != bool(jwks):
        raise ConfigError("tokens need both --issuer and --jwks")
    tls = _tls(tls_cert, tls_key)
    if tls is None and not _is_loopback(host):
        log.warning("listening on %s without TLS: keys and embeddings can be read on the way", host)
    keys = keys or daily.project.out / "serving" / "keys.json"
    audit = audit or daily.project.out / "serving" / "audit"
    known = Keys(keys)
    if not no_auth and not known.records() and not issuer:
        raise ConfigError(f"no API key in {keys}: `qanchor keys add NAME --scope 'embed:*'` makes one")
    tokens = Tokens(KeySet(jwks), issuer, audience) if issuer and jwks else None
    door = Door(None if no_auth else known, tokens, Limits(rate, 2 * rate), Audit(audit, key_from_environment()))
    app = create(Service(daily, warm_mb << 20), door)
    # what was imported stays: a collection that walks through all of torch would hold up every request
    gc.collect()
    gc.freeze()
    server = uvicorn.Server(settings(app, host, port, tls))
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:  # it has said why
        sys.exit(1)


def settings(app: Any, host: str, port: int, tls: ssl.SSLContext | None) -> uvicorn.Config:
    """Of the server; public for tests."""
    found = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,  # paths hold users' ids; metrics and the audit log have the rest
        log_level="warning",
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=20,
    )
    found.load()
    found.ssl = tls
    return found


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Raises ConfigError."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise ConfigError(f"--tls-{'key' if cert else 'cert'} is missing: TLS needs both --tls-cert and --tls-key")
    for path in (cert, key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error.strerror}): expected a PEM file") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # without a password of its own a sealed key would be asked for on the terminal
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            f"{cert} and {key} are not a certificate and its key ({error}): expected PEM without a password"
        ) from None
    return context


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
