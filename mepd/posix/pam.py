"""Linux-PAM's account and session phases, through python-pam's bindings.

python-pam starts PAM only inside authenticate() and lets the conversation callback be
collected afterwards, so that a module that speaks later calls freed memory. Here the
calls are made one by one, and the conversation lives until pam_end(3).
"""

from __future__ import annotations

import ctypes
import importlib
import logging
from typing import Any

from mepd.errors import PamError

log = logging.getLogger(__name__)

_SUCCESS = 0
_CONV_ERR = 19
_TEXTS = (3, 4)  # PAM_ERROR_MSG, PAM_TEXT_INFO; all others want an answer
_ESTABLISH_CRED = 0x0002
_DELETE_CRED = 0x0004
_REINITIALIZE_CRED = 0x0008
_TTY, _RUSER = 3, 8
_NAMES = (
    "SUCCESS OPEN_ERR SYMBOL_ERR SERVICE_ERR SYSTEM_ERR BUF_ERR PERM_DENIED AUTH_ERR"
    " CRED_INSUFFICIENT AUTHINFO_UNAVAIL USER_UNKNOWN MAXTRIES NEW_AUTHTOK_REQD ACCT_EXPIRED"
    " SESSION_ERR CRED_UNAVAIL CRED_EXPIRED CRED_ERR NO_MODULE_DATA CONV_ERR AUTHTOK_ERR"
    " AUTHTOK_RECOVERY_ERR AUTHTOK_LOCK_BUSY AUTHTOK_DISABLE_AGING TRY_AGAIN IGNORE ABORT"
    " AUTHTOK_EXPIRED MODULE_UNKNOWN BAD_ITEM CONV_AGAIN INCOMPLETE"
).split()


class PamSession:
    """One PAM transaction for one user, without an authentication phase.

    The methods raise PamError. Call them in the order account, establish, open,
    reinitialize after initgroups(3), and close at the end; close may be called at any
    point and undoes what was done.
    """

    def __init__(self, service: str, user: str) -> None:
        """pam_start(3). ``service`` names a file of /etc/pam.d."""
        self._b: Any = importlib.import_module("pam.__internals")
        self._pam: Any = self._b.PamAuthenticator()
        self._pam.pam_setcred.argtypes = [self._b.PamHandle, ctypes.c_int]
        self._pam.pam_setcred.restype = ctypes.c_int
        self._service = service
        self._callback = self._b.conv_func(self._converse)
        self._conversation = self._b.PamConv(self._callback, None)
        self._handle = self._b.PamHandle()
        self._status = _SUCCESS
        self._credentials = self._opened = False
        code = self._pam.pam_start(
            service.encode(),
            user.encode(),
            ctypes.byref(self._conversation),
            ctypes.byref(self._handle),
        )
        if code != _SUCCESS:
            raise PamError("pam_start", code, _name(code), "cannot start PAM")
        for item, value in ((_TTY, b"mepd"), (_RUSER, b"root")):
            self._pam.pam_set_item(self._handle, item, value)

    def _converse(self, count: int, messages: Any, responses: Any, _data: Any) -> int:
        """The conversation function (pam_conv(3)): logs what modules say, answers no prompt."""
        try:
            if count < 1:
                return _CONV_ERR
            for i in range(count):
                message = messages[i].contents
                if message.msg_style not in _TEXTS:
                    log.warning("PAM (%s) prompted, which nobody can answer", self._service)
                    return _CONV_ERR
                text = (message.msg or b"").decode("utf-8", "replace")
                log.info("PAM (%s): %s", self._service, text)
            size = ctypes.sizeof(self._b.PamResponse)
            responses[0] = ctypes.cast(
                self._pam.calloc(count, size), ctypes.POINTER(self._b.PamResponse)
            )
            return _SUCCESS
        except Exception:
            log.exception("PAM conversation failed")
            return _CONV_ERR

    def _call(self, name: str, flags: int = 0) -> None:
        code = getattr(self._pam, name)(self._handle, flags)
        self._status = code
        if code != _SUCCESS:
            text = self._pam.pam_strerror(self._handle, code).decode("utf-8", "replace")
            raise PamError(name, code, _name(code), text)

    def check_account(self) -> None:
        """pam_acct_mgmt(3)."""
        self._call("pam_acct_mgmt")

    def establish_credentials(self) -> None:
        """pam_setcred(3), PAM_ESTABLISH_CRED."""
        self._call("pam_setcred", _ESTABLISH_CRED)
        self._credentials = True

    def reinitialize_credentials(self) -> None:
        """pam_setcred(3), PAM_REINITIALIZE_CRED: initgroups(3) wiped the modules' groups."""
        self._call("pam_setcred", _REINITIALIZE_CRED)

    def open(self) -> None:
        """pam_open_session(3)."""
        self._call("pam_open_session")
        self._opened = True

    def environment(self) -> dict[str, str]:
        """pam_getenvlist(3)."""
        listing = self._pam.pam_getenvlist(self._handle)
        out: dict[str, str] = {}
        i = 0
        while listing and listing[i]:
            key, sep, value = listing[i].decode("utf-8", "surrogateescape").partition("=")
            if sep:
                out[key] = value
            i += 1
        return out

    def forget(self, name: str) -> None:
        """pam_putenv(3): ``name`` is no longer in what modules and their programs are given."""
        self._pam.pam_putenv(self._handle, name.encode("utf-8", "surrogateescape"))

    def close(self) -> None:
        """Close the session, delete the credentials, pam_end(3). Errors are logged."""
        if self._handle is None:
            return
        for wanted, name, flags in (
            (self._opened, "pam_close_session", 0),
            (self._credentials, "pam_setcred", _DELETE_CRED),
        ):
            if wanted:
                try:
                    self._call(name, flags)
                except PamError as e:
                    log.error("PAM (%s): %s", self._service, e)
        self._pam.pam_end(self._handle, self._status)
        self._handle = None


def _name(code: int) -> str:
    return f"PAM_{_NAMES[code]}" if 0 <= code < len(_NAMES) else "PAM_?"
