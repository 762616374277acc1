"""How many connections the gateway has descriptors for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mepd.errors import ConfigError
from mepd.gateway.connections import FILES_MAX, over_tls, room


@pytest.mark.parametrize("files", [64, 256, 400, 1024, 4096, FILES_MAX])
def test_those_that_come_while_others_give_way_have_descriptors(files: int) -> None:
    """asyncio has taken more in three further turns before the first to go is closed."""
    found = room(files)
    assert files - found.most - 4 * found.at_once >= min(256, files // 4)
    assert found.most >= files // 2


def test_a_process_with_few_descriptors_takes_a_connection_all_the_same() -> None:
    for files in range(1, 64):
        assert room(files).most >= 1 and room(files).at_once >= 1


# --- certificates ---------------------------------------------------------------------
@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs, and what is none."""
    folder = tmp_path_factory.mktemp("pems")
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -keyout {0}.key -out"
    locked = "openssl rsa -aes128 -passout pass:x -in a.key -out locked.key"
    commands = [make.format(name) + f" {name}.crt" for name in "ab"]
    commands += ["openssl ecparam -genkey -name prime256v1 -out ec.key", locked]
    for command in commands:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "junk").write_text("junk")
    (folder / "cut.crt").write_text((folder / "a.crt").read_text()[:300])
    (folder / "folder").mkdir()
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "named", "message"),
    [
        ("junk", "a.key", "junk", "tls_certificate is no PEM file"),
        ("cut.crt", "a.key", "cut.crt", "tls_certificate is no PEM file"),
        ("a.key", "a.crt", "a.key", "tls_certificate is no PEM file"),
        ("a.crt", "junk", "junk", "tls_key is no PEM file"),
        ("a.crt", "a.crt", "a.crt", "tls_key is no PEM file"),
        ("a.crt", "b.key", "b.key", "tls_key is not that of"),
        ("a.crt", "ec.key", "ec.key", "tls_key is not that of"),
        ("a.crt", "locked.key", "locked.key", "tls_key is encrypted"),
        ("folder", "a.key", "folder", "directory"),
    ],
)
def test_a_certificate_or_key_that_is_none_is_named(
    pems: Path, certificate: str, key: str, named: str, message: str
) -> None:
    over_tls(str(pems / "a.crt"), str(pems / "a.key"))
    with pytest.raises(ConfigError, match=message) as raised:
        over_tls(str(pems / certificate), str(pems / key))
    assert str(raised.value).startswith(f"{pems / named}: ")
