"""Files of refreshed credentials, as globus-compute-endpoint itself writes and reads them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from mepd.config.launchplan import CredentialFile
from mepd.launch import refresh
from mepd.posix import descriptors
from mepd.uep.credentials import Credentials
from mepd.uep.document import Document
from tests.conftest import require
from tests.root.launching import creds

PYTHON = Path(os.environ.get("MEPD_TEST_PEER", "/nonexistent")) / "bin/python"
READER = """
import json, sys
from globus_compute_endpoint.endpoint.utils import make_credential_provider
fd, key = json.load(sys.stdin)
print(json.dumps(make_credential_provider(fd, key)()))
"""
WRITER = """
import json, sys, types
from globus_compute_endpoint.endpoint.core_endpoint import CoreEndpoint
fd, key, creds = json.load(sys.stdin)
uep = types.SimpleNamespace(cred_fd=fd, enckey=key.encode(), ep_name="uep", uname="harper")
CoreEndpoint._update_uep_credentials(uep, creds)
"""


@pytest.fixture
def files() -> Iterator[tuple[CredentialFile, int]]:
    """mepd's end and the user endpoint's."""
    require(PYTHON.exists(), "MEPD_TEST_PEER")
    writing, reading = descriptors.one_way_file("test")
    yield CredentialFile(writing, Fernet.generate_key().decode()), reading
    os.close(writing)
    os.close(reading)


def peer(code: str, fd: int, *about: Any) -> str:
    done = subprocess.run(
        [PYTHON, "-c", code], input=json.dumps([fd, *about]), pass_fds=(fd,),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_peer_reads_what_the_launch_child_writes(files: tuple[CredentialFile, int]) -> None:
    file, reading = files
    for more in ("x" * 9000, ""):  # the second is shorter
        written = {**creds("uep"), "more": more}
        refresh.write(file, written)
        assert json.loads(peer(READER, reading, file.key)) == {"amqp_creds": written}


def test_mepd_uep_reads_what_the_peer_writes(files: tuple[CredentialFile, int]) -> None:
    file, reading = files
    first = creds("uep")
    document = Document("uep", first, "", {}, mem_fd=reading, enckey=file.key)
    credentials = Credentials(document)
    assert credentials.current() is first and not credentials.renewed()
    fresh = json.loads(json.dumps(first).replace('"endpoint_id": "uep"', '"endpoint_id": "new"'))
    peer(WRITER, file.fd, file.key, fresh)
    assert credentials.renewed() and credentials.current() == fresh != first
    assert not credentials.renewed()
