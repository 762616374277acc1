"""What the token routes answer in place of a token: RFC 6749 section 5.2."""

from __future__ import annotations

from fastapi.responses import JSONResponse

from mepd.errors import MepdError

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(MepdError):
    """``error`` is one of the RFC's words, ``description`` for humans."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status

    def response(self) -> JSONResponse:
        headers = {"WWW-Authenticate": "Basic"} if self.status == 401 else {}
        body = {"error": self.error, "error_description": self.description}
        return JSONResponse(body, self.status, {**NO_STORE, **headers})
