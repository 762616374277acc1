"""P5: mepd is told to stop while PAM modules hang."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from mepd_fixtures import Mepd

from mepd.posix import process
from tests.conftest import is_gone, need_root, wait_for
from tests.root import pammodule


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_root()
    return pammodule.build(tmp_path_factory.mktemp("pam"))


@pytest.mark.parametrize("when", ["acct", "open"])
def test_P5_sigterm_ends_all_though_modules_hang(
    mepd: Mepd, module: Path, when: str
) -> None:
    """They block every signal. Nothing is left, and the requests are the next mepd's."""
    config = mepd.folder / "endpoint/config.yaml"
    lines = pammodule.misbehaving(module, "hang", when, mepd.user.name)
    with pammodule.service(*lines) as service:
        config.write_text(config.read_text() + f"pam: {{service_name: {service}}}\n")
        mepd.start()
        mepd.service.publish(*(mepd.request() for _ in range(6)))
        assert mepd.process is not None
        pid = mepd.process.pid

        def hanging() -> list[int]:
            """Those whose module has blocked SIGTERM, besides all else."""
            found = []
            for child in process.descendants(pid):
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{child.pid}/status").read_text()
                    blocked = next(x for x in status.splitlines() if x.startswith("SigBlk"))
                    if int(blocked.split()[1], 16) & 1 << 14:
                        found.append(child.pid)
            return found

        wait_for(lambda: len(hanging()) == 6, 30, "six hanging modules")
        family = process.descendants(pid)
        begun = time.monotonic()
        mepd.process.terminate()
        assert mepd.process.wait(10) == 0
        assert time.monotonic() - begun < 10
        wait_for(lambda: all(is_gone(p.pid) for p in family), 2)
    assert not mepd.runs()
