"""What a request can fail with, in the form that the SDK turns into GlobusAPIError.

globus_sdk takes ``code`` and ``message`` of the body; ``reason``, ``http_status_code`` and
``error_args`` are what older clients of the Compute API read.
"""

from __future__ import annotations

from typing import Any

from mepd.errors import MepdError

RETRY_AFTER_S = 5


class ApiError(MepdError):
    """A request is refused with ``status`` (HTTP) and ``code`` (a word for programs)."""

    def __init__(self, status: int, code: str, reason: str, retry_after: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.reason = reason
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        return {
            "status": "Failed",
            "code": self.code,
            "http_status_code": self.status,
            "error_args": [],
            "reason": self.reason,
            "message": self.reason,
        }

    def headers(self) -> dict[str, str]:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers


class StoreUnavailable(MepdError):
    """The database is locked, full or gone; nothing of the request was written.

    Its text says which and why, for the administrator; ``TOLD`` is for anybody.
    """

    TOLD = "the store is not available"


class BrokerDown(MepdError):
    """The broker is not connected, or refused a message."""


class Unroutable(BrokerDown):
    """The broker has no queue for a message."""


class NoQueue(BrokerDown):
    """The broker has no queue of that name."""


class Unsendable(MepdError):
    """A message that no broker takes, now or later."""


class StartFailed(MepdError):
    """A user endpoint did not check in; the text is for the user."""


def invalid(reason: str) -> ApiError:
    """422, with the manual's words."""
    return ApiError(
        422, "SEMANTICALLY_INVALID", f"Request payload failed validation: {reason}"
    )


def malformed(reason: str) -> ApiError:
    return ApiError(400, "REQUEST_MALFORMED", reason)


def unauthenticated(reason: str = "The token is missing, unknown, expired or revoked") -> ApiError:
    return ApiError(401, "AUTHENTICATION_FAILED", reason)


def forbidden(reason: str) -> ApiError:
    return ApiError(403, "FORBIDDEN", reason)


def not_found(what: str, ident: str) -> ApiError:
    return ApiError(404, f"{what.upper()}_NOT_FOUND", f"{what} {ident} could not be found")


def too_many(reason: str, retry_after: int = RETRY_AFTER_S) -> ApiError:
    return ApiError(429, "TOO_MANY_REQUESTS", reason, retry_after)


def unavailable(reason: str) -> ApiError:
    return ApiError(503, "SERVICE_UNAVAILABLE", reason, RETRY_AFTER_S)
