"""P3: each error that a PAM module can return, at each of its calls."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

from mepd.model import Stage
from mepd.posix import pam
from tests.conftest import User, need_root
from tests.root import launching, pammodule

# Arguments: the file of its record, the call that fails, and the code.
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define PAM_SM_AUTH
#define PAM_SM_ACCOUNT
#define PAM_SM_SESSION
#include <security/pam_modules.h>

static int act(const char *now, int argc, const char **argv)
{
    FILE *record;
    if (argc != 3 || !(record = fopen(argv[0], "a")))
        return PAM_SYSTEM_ERR;
    fprintf(record, "%s\n", now);
    fclose(record);
    return strcmp(argv[1], now) == 0 ? atoi(argv[2]) : PAM_SUCCESS;
}
int pam_sm_authenticate(pam_handle_t *h, int flags, int argc, const char **argv)
{ (void)h; (void)flags; return act("auth", argc, argv); }
int pam_sm_setcred(pam_handle_t *h, int flags, int argc, const char **argv)
{
    (void)h;
    return act(flags & PAM_DELETE_CRED ? "delete" : flags & PAM_REINITIALIZE_CRED ? "again"
               : "setcred", argc, argv);
}
int pam_sm_acct_mgmt(pam_handle_t *h, int flags, int argc, const char **argv)
{ (void)h; (void)flags; return act("acct", argc, argv); }
int pam_sm_open_session(pam_handle_t *h, int flags, int argc, const char **argv)
{ (void)h; (void)flags; return act("open", argc, argv); }
int pam_sm_close_session(pam_handle_t *h, int flags, int argc, const char **argv)
{ (void)h; (void)flags; return act("close", argc, argv); }
"""
_IGNORE, _INCOMPLETE = 25, 31
CODES = [c for c in range(1, 31) if c != _IGNORE]  # 31 is no end of a call: it asks for another
CALLS = {
    "acct": ("pam_acct_mgmt", ["acct"]),
    "setcred": ("pam_setcred", ["acct", "setcred"]),
    "open": ("pam_open_session", ["acct", "setcred", "open", "delete"]),
}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    need_root()
    yield pammodule.build(tmp_path_factory.mktemp("pam"), "pam_code", SOURCE)


def start(
    user: User, folder: Path, module: Path, call: str, code: int
) -> tuple[launching.Outcome, list[str]]:
    record = folder / "record"
    words = f"{module} {record} {call} {code}"
    lines = [f"{kind} required {words}" for kind in ("auth", "account", "session")]
    with pammodule.service(*lines) as name:
        snap = launching.snapshot(
            launching.script(folder, "pass"), pam_enable=True, pam_service=name
        )
        outcome = launching.run(launching.plan(snap, launching.request(f"{user.name}@example.org")))
    said = record.read_text().split()
    record.unlink()
    return outcome, said


@pytest.mark.parametrize("call", CALLS)
def test_P3_every_error_is_71_opaque_and_in_the_log(
    harper: User, tmp_path: Path, module: Path, call: str
) -> None:
    """What was done before it is undone; of what failed there is nothing to undo."""
    name, wanted = CALLS[call]
    for code in CODES:
        outcome, said = start(harper, tmp_path, module, call, code)
        assert outcome.code == 71 == int(Stage.HOST_AUTH) and outcome.session is None, code
        assert outcome.failed is not None
        assert f"{name}: (error code: {code} [PAM_{pam._NAMES[code]}])" in outcome.failed.reason
        assert outcome.failed.public == (
            f"Unable to start user endpoint process for {harper.name}"
            " [exit code: 71; (PermissionError) see your system administrator]"
        )
        assert said == wanted, code


@pytest.mark.parametrize("code", [1, 17, 30])
def test_P3_credentials_that_cannot_be_had_again_after_initgroups(
    harper: User, tmp_path: Path, module: Path, code: int
) -> None:
    """It fails in the child; the session process closes all."""
    outcome, said = start(harper, tmp_path, module, "again", code)
    assert outcome.failed is not None and outcome.failed.stage == "INITGROUPS"
    assert outcome.code == int(Stage.INITGROUPS)
    assert f"[PAM_{pam._NAMES[code]}]" in outcome.failed.reason
    assert "see your system administrator" in outcome.failed.public
    assert said == ["acct", "setcred", "open", "again", "close", "delete"]


@pytest.mark.parametrize("call", ["close", "delete"])
def test_P3_an_error_at_the_end_stops_nothing_else(
    harper: User, tmp_path: Path, module: Path, call: str
) -> None:
    outcome, said = start(harper, tmp_path, module, call, 14)
    assert outcome.failed is None and outcome.code == 0
    assert said == ["acct", "setcred", "open", "again", "close", "delete"]


def test_P4_questions_are_not_answered(module: Path) -> None:
    """Of any kind, without a look at what is no text (PAM_BINARY_PROMPT, PAM_RADIO_TYPE)."""
    with pammodule.service(f"account required {module} /dev/null none 0") as name:
        session = pam.PamSession(name, "root")
        try:
            for style, answer in ((1, 19), (2, 19), (3, 0), (4, 0), (5, 19), (7, 19), (99, 19)):
                one = session._b.PamMessage(style, b"a text")
                messages = (ctypes.POINTER(session._b.PamMessage) * 1)(ctypes.pointer(one))
                responses = (ctypes.POINTER(session._b.PamResponse) * 1)()
                assert session._converse(1, messages, responses, None) == answer, style
        finally:
            session.close()
