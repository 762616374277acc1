"""One error class per boundary; every one carries a text fit for an administrator."""

from __future__ import annotations

import os


class MepdError(Exception):
    """Base of every error that mepd raises on purpose."""


class ConfigError(MepdError):
    """A configuration file is wrong.

    ``path`` and ``line`` say where; ``line`` is 0 when the whole file is meant. The text is
    cut off where a file's own words would make it endless.
    """

    TEXT_MAX = 2000

    def __init__(self, message: str, path: str = "", line: int = 0) -> None:
        where = f"{path}:{line}: " if path and line else f"{path}: " if path else ""
        super().__init__((where + message)[: self.TEXT_MAX])
        self.path = path
        self.line = line


class WireError(MepdError):
    """Bytes from another process or the network do not fit the protocol."""


class RequestError(WireError):
    """A start request is refused.

    ``amqp_creds`` holds the credentials of the message when they could be read,
    so that the refusal can be told to the sender.
    """

    def __init__(self, message: str, amqp_creds: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.amqp_creds = amqp_creds


class PamError(MepdError):
    """A PAM call failed; see pam(3) for ``code``."""

    def __init__(self, call: str, code: int, name: str, text: str) -> None:
        super().__init__(f"{call}: (error code: {code} [{name}]) {text}")
        self.call = call
        self.code = code


class ServiceError(MepdError):
    """The web service refused or could not be reached; ``fatal`` if trying again is useless."""

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class ControlError(MepdError):
    """A control request was refused; ``exit_code`` is the sysexits(3) code for mepctl."""

    def __init__(self, message: str, exit_code: int = os.EX_SOFTWARE) -> None:
        super().__init__(message)
        self.exit_code = exit_code
