"""One site for all end-to-end tests that leave it running, and fresh ones for the others."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import need_root, require
from tests.e2e.site import Site


def make_site(apart: str = "") -> Site:
    need_root()
    require(bool(glob.glob("/usr/lib/rabbitmq/lib/rabbitmq_server-*")), "rabbitmq-server")
    directory = Path(tempfile.mkdtemp(prefix="mepd-site-", dir="/var/lib"))
    os.chmod(directory, 0o755)
    site = Site(directory, apart)
    (directory / site.module.MARK).touch()
    site.prepare()
    return site


def remove(site: Site) -> None:
    site.stop()
    shutil.rmtree(site.demo.dir, ignore_errors=True)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """A running site, shared by the tests of a module."""
    made = make_site()
    try:
        made.start()
        yield made
    finally:
        remove(made)


@pytest.fixture
def fresh() -> Iterator[Site]:
    """A running site of the test's own, to be broken."""
    made = make_site()
    try:
        made.start()
        yield made
    finally:
        remove(made)
