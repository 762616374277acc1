"""What a user endpoint is given on its standard input, and where it begins."""

from __future__ import annotations

import datetime
import json
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.errors import PamError
from mepd.launch import handoff, report, session
from mepd.launch.failure import StageError
from mepd.model import Stage
from mepd.posix.accounts import Account
from mepd.wire import codec
from mepd.wire.framing import FrameReader, encode_frame
from mepd.wire.stages import Verdict


def account(home: str) -> Account:
    return Account("harper", os.getuid(), os.getgid(), "", home, "/bin/sh")


@pytest.mark.parametrize("home", ["/nonexistent/home", "/etc/passwd"])
def test_who_has_no_home_begins_at_the_root(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert handoff._enter_home(account(home)) == "/" == os.getcwd()


def test_a_home_that_may_not_be_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: str, real: Any = os.chdir) -> None:
        if path == str(tmp_path):
            raise PermissionError(13, "Permission denied", path)
        real(path)

    monkeypatch.chdir("/tmp")
    monkeypatch.setattr(os, "chdir", denied)
    assert handoff._enter_home(account(str(tmp_path))) == "/"
    monkeypatch.setattr(os, "chdir", lambda path: exec("raise OSError(5, 'Input/output error')"))
    with pytest.raises(StageError, match="home folder"):
        handoff._enter_home(account(str(tmp_path)))


def test_the_folder_is_the_owners_alone(tmp_path: Path) -> None:
    made = Path(handoff._make_folder(account(str(tmp_path)), "uep.a"))
    assert made == tmp_path / ".globus_compute/uep.a"
    assert {p.stat().st_mode & 0o777 for p in (made, made.parent)} == {0o700}
    assert handoff._make_folder(account(str(tmp_path)), "uep.a") == str(made)
    (tmp_path / ".globus_compute/uep.b").write_text("a file")
    with pytest.raises(StageError, match=r"folder of the UEP below"):
        handoff._make_folder(account(str(tmp_path)), "uep.b")


@pytest.mark.parametrize(
    ("values", "survives"),
    [
        ({"a": [1, "x", None, 0.5, {"b": True}]}, True),
        ({"a": datetime.date(2026, 1, 1)}, False),
        ({"a": float("nan")}, False),
        ({1: "key"}, False),
        ({"a": b"bytes"}, False),
        ({("a", "b"): 1}, False),
    ],
)
def test_values_go_beside_the_text_only_if_json_keeps_them(
    values: dict[Any, Any], survives: bool
) -> None:
    assert handoff._survives_json(values) is survives


def document(own: bool, audit: int | None, config: dict[str, Any], **more: Any) -> dict[str, Any]:
    given = {"allowed_functions": None, "runs_own_uep": own, **more}
    plan: Any = SimpleNamespace(
        snapshot=SimpleNamespace(**given), request=SimpleNamespace(amqp_creds={"url": "amqp://x"})
    )
    resolved: Any = SimpleNamespace(matched="id-1", candidates=[{"id": "id-1"}])
    fds: Any = SimpleNamespace(file=SimpleNamespace(key="key"), audit=audit)
    made: dict[str, Any] = json.loads(handoff._document(plan, resolved, "a: 1\n", config, fds))
    return made


def test_the_document_for_each_kind_of_user_endpoint() -> None:
    own = document(True, 9, {"a": 1}, allowed_functions=["f1"])
    assert own["config"] == "a: 1\n" and own["config_values"] == {"a": 1}
    assert own["ep_info"]["globus_matched_identity"] == "id-1" and "audit_fd" in own
    assert own["allowed_functions"] == ["f1"] and own["amqp_creds"] == {"url": "amqp://x"}
    other = document(False, 9, {"a": 1})
    assert other["config"] == "high_assurance: true\na: 1\n" and "config_values" not in other
    plain = document(True, None, {"a": datetime.date(2026, 1, 1)})
    assert not {"audit_fd", "config_values", "allowed_functions"} & plain.keys()


def test_a_configuration_that_is_logged_is_between_two_lines() -> None:
    said = handoff._debug_lines("a: 1\nb: 2\n")
    assert "Begin Compute endpoint configuration (2 lines):\n  | a: 1\n  | b: 2\n" in said
    assert said.endswith("End Compute endpoint configuration\n")


class TestStageSocket:
    @pytest.fixture
    def ends(self) -> Iterator[tuple[report.StageSocket, socket.socket]]:
        ours, theirs = socket.socketpair()
        yield report.StageSocket(ours), theirs
        ours.close()
        theirs.close()

    def test_a_verdict_that_comes_in_pieces(
        self, ends: tuple[report.StageSocket, socket.socket]
    ) -> None:
        stages, master = ends
        frame = encode_frame(codec.encode(Verdict(False, "too many")))
        master.sendall(frame[:7])
        sender = threading.Thread(target=lambda: (poll(stages), master.sendall(frame[7:])))
        sender.start()
        assert stages.verdict() == Verdict(False, "too many")
        sender.join()

    def test_a_master_that_is_gone_says_no(
        self, ends: tuple[report.StageSocket, socket.socket]
    ) -> None:
        stages, master = ends
        master.sendall(b"\0\0")
        master.close()
        assert stages.verdict() == Verdict(False, "mepd is gone")

    def test_it_makes_room_for_what_comes_below(
        self, ends: tuple[report.StageSocket, socket.socket]
    ) -> None:
        stages, master = ends
        stages.move_above(200)
        assert stages.fileno() >= 200 and not os.get_inheritable(stages.fileno())
        stages.send_failure("EXEC", 87, "r" * 9000, "p" * 9000)
        (frame,) = FrameReader().feed(master.recv(65536))
        assert frame["code"] == 87 and len(frame["reason"]) == len(frame["public"]) == 2000
        stages.close()


def poll(stages: report.StageSocket) -> None:
    """Until what has come was read."""
    while select.select([stages.fileno()], [], [], 0)[0]:
        pass


def test_pam_that_cannot_even_start_is_opaque_to_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(service: str, user: str) -> Any:
        raise PamError("pam_start", 26, "PAM_ABORT", "cannot start PAM")

    monkeypatch.setattr(session, "PamSession", none)
    with pytest.raises(StageError) as caught:
        session.open_session("mepd", "harper")
    assert caught.value.stage is Stage.HOST_AUTH and "PAM_ABORT" in caught.value.reason
    assert "PAM" not in caught.value.public_text("harper")
