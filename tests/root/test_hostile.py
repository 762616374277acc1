"""Mappers, user endpoints and their descendants that mean harm to the master or to others."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from mepd.posix import process
from tests.conftest import User, is_gone, need_root, wait_for
from tests.root import launching, pammodule


def ask(user: User, **changes: Any) -> Any:
    return launching.request(f"{user.name}@example.org", **changes)


def test_I6_a_mapper_that_reads_nothing_maps_in_a_launch_child(
    harper: User, tmp_path: Path
) -> None:
    """A launch child has default signals; writing to a closed pipe must not be its death."""
    who = {"id": "a", "sub": "a", "username": "x", "status": "used", "more": "y" * 200_000}
    answer = {
        "DATA_TYPE": "identity_mapping_output#1.0.0",
        "result": [{"id": "a", "output": harper.name}],
    }
    mapper = tmp_path / "mapper"
    mapper.write_text(f"#!/bin/sh\nexec 0<&-\nsleep 0.2\necho '{json.dumps(answer)}'\n")
    mapper.chmod(0o755)
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(mapper)]}
    snap = launching.snapshot(launching.script(tmp_path, "pass"), mappings=(document,))
    outcome = launching.run(launching.plan(snap, ask(harper, identity_set=(who,))))
    assert outcome.mapped is not None and outcome.mapped.user == harper.name
    assert outcome.code == 0


def test_P1_a_master_that_dies_while_the_session_opens(harper: User, tmp_path: Path) -> None:
    need_root()
    record, opening = tmp_path / "record", tmp_path / "opening"
    script = tmp_path / "record.sh"
    script.write_text(
        f'#!/bin/sh\necho $PAM_TYPE >> {record}\n[ $PAM_TYPE = open_session ] || exit 0\n'
        f"touch {opening}\nwhile [ -e {opening} ]; do sleep 0.05; done\n"
    )
    script.chmod(0o755)
    lines = ("account required pam_permit.so", f"session required pam_exec.so seteuid {script}")
    with pammodule.service(*lines) as service:
        command = launching.script(tmp_path, "import time; time.sleep(600)")
        snap = launching.snapshot(command, pam_enable=True, pam_service=service)
        launch = launching.Launch(launching.plan(snap, ask(harper)))
        try:
            launch.stages_until_mapped()
            wait_for(opening.exists, 10)
            assert launch.launched.lifeline is not None
            for sock in (launch.launched.stages, launch.launched.lifeline):
                sock.close()  # as the kernel closes a dead master's
            opening.unlink()
            launch.wait()
            assert record.read_text().split() == ["open_session", "close_session"]
        finally:
            launch.close()


def test_R1_a_hanging_mapper_and_what_it_forked_do_not_outlive_the_master(
    harper: User, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    mapper = tmp_path / "mapper"
    mapper.write_text(f"#!/bin/sh\nsleep 300 &\necho $$ $! > {pids}\nwait\n")
    mapper.chmod(0o755)
    document = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": [str(mapper)]}
    snap = launching.snapshot(launching.script(tmp_path, "pass"), mappings=(document,))

    def master() -> int:
        launching.Launch(launching.plan(snap, ask(harper)))
        time.sleep(600)
        return 0

    pid = process.fork(master)
    seen = wait_for(lambda: pids.exists() and pids.read_text().split(), 20)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    wait_for(lambda: all(is_gone(int(p)) for p in seen), 5, "the mapper's end")
