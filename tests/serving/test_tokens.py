"""Tokens: the attacks on JWT that have names, and the keys behind them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from qanchor.errors import ConfigError, CredentialError
from qanchor.serving import jwks as jwks_module
from qanchor.serving.jwks import KeySet
from qanchor.serving.tokens import Tokens

ISSUER, AUDIENCE = "https://id.example", "qanchor"
RSA, STRANGER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
SHORT = rsa.generate_private_key(65537, 1024)
CURVE = ec.generate_private_key(ec.SECP256R1())
PEM = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def public(key, kid, **more):
    algorithm = jwt.algorithms.ECAlgorithm if key is CURVE else jwt.algorithms.RSAAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


KEYS = [
    public(RSA, "rsa", alg="RS256", use="sig"),
    public(CURVE, "curve"),
    public(STRANGER, "encrypts", use="enc"),
    public(STRANGER, "confused", alg="HS256"),
    public(SHORT, "short"),
    {"kty": "oct", "kid": "shared", "k": "c2VjcmV0"},
    {"kty": "made up", "kid": "odd"},
    "no key at all",
]


def claims(**changes):
    now = int(time.time())
    given = {"iss": ISSUER, "aud": AUDIENCE, "sub": "team", "iat": now, "exp": now + 300, "scope": "qanchor:append"}
    return {name: value for name, value in {**given, **changes}.items() if value is not None}


def token(key=RSA, algorithm="RS256", kid="rsa", headers=(), **changes):
    return jwt.encode(claims(**changes), key, algorithm, headers={"kid": kid, **dict(headers)})


def by_hand(header, payload, secret=None):
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest() if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": KEYS}))
    return Tokens(KeySet(str(path)), ISSUER, AUDIENCE)


def test_a_good_token_is_a_principal_with_our_scopes_only(tokens):
    words = "openid qanchor:embed:takeout qanchor:append qanchor:embed qanchor:all append"
    principal = tokens.principal(token(scope=words, nbf=int(time.time())))
    assert (principal.who, principal.scopes) == ("token:team", {"embed:takeout", "append"})
    assert tokens.principal(token(CURVE, "ES256", "curve", aud=["other", AUDIENCE])).scopes == {"append"}
    assert tokens.principal(token(scope=["qanchor:admin", 7])).scopes == {"admin"}
    assert not tokens.principal(token(scope=None)).scopes


NOW = int(time.time())
ATTACKS = {
    "alg none": (lambda: by_hand({"alg": "none", "kid": "rsa"}, claims()), "alg value"),
    "alg None": (lambda: by_hand({"alg": "None", "kid": "rsa"}, claims()), "alg value"),
    "HS256 by the public key": (lambda: by_hand({"alg": "HS256", "kid": "rsa"}, claims(), PEM), "alg value"),
    "HS256 by the public key of a confused entry": (
        lambda: by_hand({"alg": "HS256", "kid": "confused"}, claims(), PEM),
        "does not publish",
    ),
    "HS256 by a shared key in the set": (
        lambda: by_hand({"alg": "HS256", "kid": "shared"}, claims(), b"secret"),
        "does not publish",
    ),
    "another algorithm than the key's": (lambda: token(algorithm="PS256"), "alg value"),
    "a stranger's signature": (lambda: token(STRANGER), "Signature"),
    "a short key": (lambda: token(SHORT, kid="short"), "1024 bits"),
    "an encryption key": (lambda: token(STRANGER, kid="encrypts"), "does not publish"),
    "no kid": (lambda: jwt.encode(claims(), RSA, "RS256"), "no kid"),
    "unknown kid": (lambda: token(kid="other"), "does not publish"),
    "its own key in the header": (
        lambda: token(STRANGER, kid="mine", headers={"jwk": public(STRANGER, "mine")}),
        "does not publish",
    ),
    "wrong issuer": (lambda: token(iss="https://id.example.evil"), "issuer"),
    "wrong audience": (lambda: token(aud="billing"), "Audience"),
    "no audience": (lambda: token(aud=None), '"aud"'),
    "no issuer": (lambda: token(iss=None), '"iss"'),
    "no expiry": (lambda: token(exp=None), '"exp"'),
    "nobody": (lambda: token(sub=None), '"sub"'),
    "expired": (lambda: token(exp=NOW - 60), "expired"),
    "not yet": (lambda: token(nbf=NOW + 3000), "nbf"),
    "for years": (lambda: token(exp=NOW + 10**8), "lives longer"),
    "signature cut off": (lambda: token().rpartition(".")[0] + ".", "Signature"),
    "deep": (lambda: base64.urlsafe_b64encode(b"[" * 5000).decode() + ".e30.e30", "recursion"),
    "long": (lambda: token(sub="x" * 10_000), "longer than"),
    "empty": (lambda: "", "segments"),
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused(tokens, attack):
    forge, reason = ATTACKS[attack]
    forged = forge()
    with pytest.raises(CredentialError, match=reason):
        tokens.principal(forged)


def test_changed_claims_are_refused(tokens):
    header, _, signature = token().split(".")
    more = base64.urlsafe_b64encode(json.dumps(claims(scope="qanchor:admin")).encode()).decode().rstrip("=")
    with pytest.raises(CredentialError):
        tokens.principal(f"{header}.{more}.{signature}")


@settings(deadline=None)
@given(text=st.text() | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}"))
def test_no_text_gets_in_or_raises_anything_else(text):
    with pytest.raises(CredentialError):
        Tokens(KeySet("/nowhere"), ISSUER, AUDIENCE).principal(text)


def test_an_unknown_kid_fetches_at_most_every_minute_and_old_keys_go(tmp_path, monkeypatch):
    clock, path, reads = [1000.0], tmp_path / "jwks.json", []
    read = jwks_module._read
    monkeypatch.setattr(jwks_module, "_read", lambda source: reads.append(source) or read(source))
    path.write_text(json.dumps({"keys": KEYS[:1]}))
    keys = KeySet(str(path), lambda: clock[0])
    keys.key("rsa")
    path.write_text(json.dumps({"keys": KEYS[1:2]}))
    for seconds, n in ((0, 1), (59, 1), (2, 2)):
        clock[0] += seconds
        for _ in range(5):
            if n == 1:
                with pytest.raises(CredentialError):
                    keys.key("curve")
            else:
                assert keys.key("curve")
        assert len(reads) == n
    with pytest.raises(CredentialError):
        keys.key("rsa")
    # the issuer goes away: its last keys hold for an hour, and no longer
    path.write_text("<html>")
    clock[0] += jwks_module.FRESH + 1
    assert keys.key("curve")
    assert len(reads) == 3
    clock[0] += jwks_module.STALE
    with pytest.raises(CredentialError, match="no keys from"):
        keys.key("curve")


def test_keys_come_over_http_from_this_machine_but_by_no_redirect_and_not_without_bounds(monkeypatch):
    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/jwks")
            self.end_headers()
            self.wfile.write(b" " * (2 << 20) if self.path == "/endless" else json.dumps({"keys": KEYS}).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Issuer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert KeySet(f"{address}/jwks").key("rsa")
        for path in ("moved", "endless"):
            with pytest.raises(CredentialError):
                KeySet(f"{address}/{path}").key("rsa")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("source", ["http://id.example/jwks", "file:///etc/passwd", "ftp://id.example/jwks"])
def test_keys_come_from_nowhere_that_can_be_tampered_with(source):
    with pytest.raises(ConfigError):
        KeySet(source)
