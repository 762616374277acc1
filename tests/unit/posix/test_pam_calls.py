"""What PAM's calls are given and what is made of their answers, without PAM."""

from __future__ import annotations

import ctypes
import importlib
import logging
from typing import Any

import pytest

from mepd.errors import PamError
from mepd.posix.pam import PamSession


class Message(ctypes.Structure):
    _fields_ = [("msg_style", ctypes.c_int), ("msg", ctypes.c_char_p)]


class Response(ctypes.Structure):
    _fields_ = [("resp", ctypes.c_char_p), ("resp_retcode", ctypes.c_int)]


class Call:
    """A function of libpam: its codes in turn (0 when there are none left), and its calls."""

    def __init__(self) -> None:
        self.codes: list[Any] = []
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *words: Any) -> Any:
        self.calls.append(words[1:])
        return self.codes.pop(0) if self.codes else 0


class Library:
    """pam.PamAuthenticator."""

    def __init__(self) -> None:
        for name in ("pam_start", "pam_set_item", "pam_acct_mgmt", "pam_setcred", "pam_end",
                     "pam_open_session", "pam_close_session", "pam_getenvlist"):  # fmt: skip
            setattr(self, name, Call())
        self.memory: list[Any] = []

    def pam_strerror(self, _handle: Any, code: int) -> bytes:
        return b"text of %d" % code

    def calloc(self, count: int, size: int) -> int:
        self.memory.append(ctypes.create_string_buffer(count * size))
        return ctypes.addressof(self.memory[-1])


class Bindings:
    """pam.__internals."""

    PamHandle = ctypes.c_void_p
    PamResponse = Response
    conv_func = staticmethod(lambda function: function)
    PamConv = staticmethod(lambda function, data: ctypes.c_int(0))

    def __init__(self) -> None:
        self.library = Library()

    def PamAuthenticator(self) -> Library:  # noqa: N802 -- python-pam's name
        return self.library


@pytest.fixture
def bindings(monkeypatch: pytest.MonkeyPatch) -> Bindings:
    made = Bindings()
    monkeypatch.setattr(importlib, "import_module", lambda name: made)
    return made


@pytest.fixture
def pam(bindings: Bindings) -> Any:
    return bindings.library


def test_a_service_that_cannot_start(pam: Any) -> None:
    pam.pam_start.codes = [26]
    with pytest.raises(PamError) as caught:
        PamSession("mepd", "harper")
    assert "PAM_ABORT" in str(caught.value) and "cannot start PAM" in str(caught.value)
    assert not pam.pam_set_item.calls


def test_a_code_without_a_name(pam: Any) -> None:
    session = PamSession("mepd", "harper")
    pam.pam_acct_mgmt.codes = [99]
    with pytest.raises(PamError, match=r"PAM_\?.*text of 99"):
        session.check_account()


class TestConversation:
    def talk(self, session: PamSession, *messages: tuple[int, bytes | None]) -> tuple[int, Any]:
        held = [Message(style, text) for style, text in messages]
        pointers = (ctypes.POINTER(Message) * max(1, len(held)))(*map(ctypes.pointer, held))
        responses = (ctypes.POINTER(Response) * 1)()
        return session._converse(len(held), pointers, responses, None), responses

    def test_what_modules_say_is_logged(
        self, bindings: Bindings, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        session = PamSession("mepd", "harper")
        code, responses = self.talk(session, (4, b"motd \xff"), (3, None))
        assert code == 0
        assert [r.getMessage() for r in caplog.records] == [
            "PAM (mepd): motd \N{REPLACEMENT CHARACTER}", "PAM (mepd): ",
        ]  # fmt: skip
        assert [responses[0][i].resp for i in range(2)] == [None, None]

    @pytest.mark.parametrize("style", [1, 2])
    def test_nobody_answers_a_prompt(
        self, bindings: Bindings, caplog: pytest.LogCaptureFixture, style: int
    ) -> None:
        session = PamSession("mepd", "harper")
        code, responses = self.talk(session, (style, b"Password: "))
        assert code == 19 and not responses[0]
        assert "prompted, which nobody can answer" in caplog.text

    def test_no_message_at_all(self, bindings: Bindings) -> None:
        assert self.talk(PamSession("mepd", "harper"))[0] == 19

    def test_what_cannot_be_read_is_an_error_of_the_conversation(
        self, bindings: Bindings, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An exception would be lost in libpam, and the module go on as if answered."""
        session = PamSession("mepd", "harper")
        assert session._converse(1, None, None, None) == 19
        assert "PAM conversation failed" in caplog.text


def test_variables_without_a_value_are_none(pam: Any) -> None:
    session = PamSession("mepd", "harper")
    pam.pam_getenvlist.codes = [[b"A=1=2", b"JUNK", b"B=", None], None]
    assert session.environment() == {"A": "1=2", "B": ""}
    assert session.environment() == {}


def test_the_close_undoes_what_was_done_once(
    pam: Any, caplog: pytest.LogCaptureFixture
) -> None:
    session = PamSession("mepd", "harper")
    session.check_account()
    session.establish_credentials()
    session.open()
    pam.pam_close_session.codes = [14]
    session.close()
    assert "pam_close_session" in caplog.text and "PAM_SESSION_ERR" in caplog.text
    assert pam.pam_setcred.calls == [(2,), (4,)] and pam.pam_end.calls == [(0,)]
    session.close()
    assert len(pam.pam_close_session.calls) == len(pam.pam_end.calls) == 1


def test_the_close_undoes_nothing_that_was_not_done(pam: Any) -> None:
    session = PamSession("mepd", "harper")
    pam.pam_setcred.codes = [17]
    with pytest.raises(PamError, match="PAM_CRED_ERR"):
        session.establish_credentials()
    session.close()
    assert not pam.pam_close_session.calls and pam.pam_setcred.calls == [(2,)]
    assert pam.pam_end.calls == [(17,)], "pam_end(3) is told the last status"
