"""Hostile clients of a gateway with TLS. It needs no broker for that."""

from __future__ import annotations

import select
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from gateway_fixtures import Site, User, poll

MIB = 1024 * 1024


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """With 400 descriptors."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), "subjectAltName=IP:127.0.0.1", *files], check=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    site = Site(tls_certificate=str(certificate), tls_key=str(key))
    site.url = f"https://127.0.0.1:{site.port}"
    program = site.dir / "few-files"
    program.write_text(f'#!/bin/sh\nulimit -n 400\nexec {site.program} "$@"\n')
    program.chmod(0o700)
    site.program = str(program)
    site.start_gateway(wait=False)
    poll(lambda: _answers(site), "the gateway")
    yield site
    site.remove()


def _answers(site: Site) -> bool:
    try:
        return requests.get(f"{site.url}/v2/version", timeout=10).status_code == 200
    except requests.RequestException:
        return False


def test_handshakes_that_do_not_end_shut_nobody_out(secure: Site) -> None:
    streams = [socket.create_connection(("127.0.0.1", secure.port), 10) for _ in range(500)]
    for _ in range(20):
        assert _answers(secure)
    assert "out of system resource" not in secure.log()
    streams[-1].settimeout(60)
    assert streams[-1].recv(100) == b""
    for stream in streams:
        stream.close()


def _rss(site: Site) -> int:
    status = Path(f"/proc/{site.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@pytest.mark.parametrize("reads", [True, False])
def test_answers_over_tls_take_bounded_memory(secure: Site, reads: bool) -> None:
    """Also of those that have read theirs, and stay."""
    harper = User(secure, "harper@example.org")
    body = {"function_name": "f", "function_code": "x" * (10 * MIB - 200)}
    function = harper.call("POST", "/v3/functions", body).json()["function_uuid"]
    ask = f"GET /v2/functions/{function} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer"
    context = ssl._create_unverified_context()
    before = _rss(secure)
    streams = []
    for _ in range(60):
        plain = socket.socket()
        if not reads:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", secure.port))
        stream = context.wrap_socket(plain)
        stream.sendall(f"{ask} {harper.token}\r\n\r\n".encode())
        left = 10 * MIB if reads else 0
        while left > 0:
            left -= len(stream.recv(MIB))
        streams.append(stream)
    poll(lambda: all(select.select([s], [], [], 0)[0] for s in streams) or reads, "all answered")
    assert _answers(secure)
    assert _rss(secure) - before < 450 * MIB, "the answers have 600 MiB"
    for stream in streams:
        stream.close()
