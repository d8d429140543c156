"""`qanchor serve` over HTTPS, by a certificate made here, and what the client makes of it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import threading
import time
import warnings

import httpx2
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from qanchor.client import Client
from qanchor.errors import ConfigError
from qanchor.serving.serve import _tls, serve, settings


def made(folder, name: str):
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(pem)
    return folder / f"{name}.crt", folder / f"{name}.key"


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"as_of": "2025-03-13"}'})


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = made(folder, "own")
    config = settings(app, "127.0.0.1", 0, _tls(certificate, key))
    config.lifespan = "off"
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield folder, certificate, server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def test_the_client_trusts_the_authority_that_it_is_given_and_no_other(served):
    folder, certificate, port = served
    url = f"https://127.0.0.1:{port}"
    with Client(url, ca=certificate) as client:
        assert client.status() == {"as_of": "2025-03-13"}
    other, _ = made(folder, "other")
    for ca in (None, other):
        with Client(url, ca=ca) as client, pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            client.status()
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(httpx2.TransportError):
        client.status()
    for wrong in (folder / "none", folder / "own.key"):
        with pytest.raises(ConfigError, match="certificates in PEM"):
            Client(url, ca=wrong)


def test_nothing_older_than_tls_1_2_is_spoken(served):
    _, certificate, port = served
    for version, spoken in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
        context = ssl.create_default_context(cafile=certificate)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version = context.maximum_version = version
        with httpx2.Client(verify=context) as http:
            if spoken:
                assert http.get(f"https://127.0.0.1:{port}/").status_code == 200
            else:
                with pytest.raises(httpx2.ConnectError):
                    http.get(f"https://127.0.0.1:{port}/")


def test_half_of_the_files_or_files_of_something_else_are_refused(tmp_path):
    certificate, key = made(tmp_path, "one")
    other, _ = made(tmp_path, "two")
    for pair, reason in (
        ((certificate, None), "--tls-key is missing"),
        ((None, key), "--tls-cert is missing"),
        ((certificate, tmp_path / "none"), "none cannot be read"),
        ((tmp_path, key), "cannot be read"),
        ((other, key), "not a certificate and its key"),
        ((key, certificate), "not a certificate and its key"),
    ):
        with pytest.raises(ConfigError, match=reason):
            _tls(*pair)
    with pytest.raises(ConfigError, match="--tls-key is missing"):
        serve(None, "127.0.0.1", 0, None, None, None, "", None, True, 1, 1, certificate)
