"""Registering an endpoint with the web service: small blocking calls, for a thread.

The routes are those of the service's public API (globus-sdk, ``services/compute``).
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field, replace
from typing import Any

from mepd.consumer.names import is_short_string, is_uuid
from mepd.errors import ServiceError, WireError
from mepd.wire.framing import parse_json
from mepd.wire.worker import ServeEndpoint

TIMEOUT_S = 30.0
_ANSWER_MAX = 1024 * 1024
# What a later try may well find changed: timeouts, locks and conflicts, rate limits
_TRANSIENT = frozenset({408, 409, 423, 425, 429})


@dataclass(frozen=True)
class Registration:
    """Where the service wants the endpoint to listen and to report."""

    endpoint_id: str
    command_queue: str
    heartbeat_exchange: str
    heartbeat_routing_key: str
    command_url: str = field(repr=False)
    heartbeat_url: str = field(repr=False)
    identities: tuple[str, ...] = ()


class _Timed(io.RawIOBase):
    """What a socket receives, all of it within the socket's timeout, which is for each piece
    of it else: a service that sends a byte now and then would never be done."""

    def __init__(self, sock: socket.socket, raw: Any) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or TIMEOUT_S)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        received: int | None = self._raw.readinto(buffer)
        return received

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Timed(sock, self.fp.detach()))


class _Connection(http.client.HTTPConnection):
    response_class = _Answer


class _TlsConnection(http.client.HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the bearer token to another place."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Raises ServiceError for a URL that is not http or https."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServiceError(f"service url {url!r} is no http(s) URL", fatal=True)
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect(), _Http(), _Https()]
    if _is_loopback(parts.hostname):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


def _refusal(error: urllib.error.HTTPError) -> ServiceError:
    """What an HTTP error status means; the service's own reason is kept, shortened."""
    reason = ""
    try:
        answer = parse_json(error.read(_ANSWER_MAX))
        if type(answer) is dict:
            reason = str(answer.get("reason") or answer.get("detail") or "")[:200]
    except (WireError, OSError, http.client.HTTPException):
        pass
    fatal = 300 <= error.code < 500 and error.code not in _TRANSIENT
    text = f"the service answered {error.code} {str(error.reason)[:100]}"
    return ServiceError(f"{text}: {reason}" if reason else text, fatal)


def _call(request: urllib.request.Request, timeout: float) -> dict[str, Any]:
    """The JSON object that the service answers. Raises ServiceError."""
    try:
        with _opener(request.full_url).open(request, timeout=timeout) as answer:
            body = answer.read(_ANSWER_MAX + 1)
    except urllib.error.HTTPError as e:
        with e:
            raise _refusal(e) from None
    except urllib.error.URLError as e:
        raise ServiceError(f"the service cannot be reached: {e.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as e:
        # Not its text: http.client quotes a header that it refuses
        raise ServiceError(f"the service cannot be reached: {type(e).__name__}") from None
    try:
        if len(body) > _ANSWER_MAX:
            raise WireError(f"more than {_ANSWER_MAX} bytes")
        value = parse_json(body)
        if type(value) is not dict:
            raise WireError("not an object")
    except WireError as e:
        raise ServiceError(f"the service's answer is unusable: {e}") from None
    return value


def _header_text(token: str) -> str:
    if not token or not token.isascii() or not token.isprintable():
        raise ServiceError("the access token is empty or has unprintable characters", fatal=True)
    return token


def bearer_token(service_url: str, credential: dict[str, Any], timeout: float = TIMEOUT_S) -> str:
    """The access token of a credential, fetched by client_credentials when need be.

    Raises ServiceError.
    """
    if type(credential.get("token")) is str:
        return _header_text(credential["token"])
    names = (credential.get("client_id"), credential.get("client_secret"))
    if not all(type(n) is str for n in names):
        raise ServiceError("the credentials hold neither a token nor a client", fatal=True)
    basic = base64.b64encode(f"{names[0]}:{names[1]}".encode()).decode("ascii")
    request = urllib.request.Request(
        f"{service_url.rstrip('/')}/v2/oauth2/token",
        data=b"grant_type=client_credentials",
        headers={
            "Authorization": f"Basic {basic}",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        method="POST",
    )
    answer = _call(request, timeout).get("access_token")
    if type(answer) is not str:
        raise ServiceError("the service's answer holds no access_token")
    return _header_text(answer)


def _text(answer: dict[str, Any], *path: str) -> str:
    value: Any = answer
    for key in path:
        value = value.get(key) if type(value) is dict else None
    if type(value) is not str:
        raise ServiceError(f"the service's answer lacks {'.'.join(path)}")
    return value


def _name(answer: dict[str, Any], *path: str) -> str:
    value = _text(answer, *path)
    if not is_short_string(value):
        raise ServiceError(f"the service's answer has an impossible {'.'.join(path)}")
    return value


def read_registration(answer: dict[str, Any]) -> Registration:
    """Raises ServiceError naming the field that is missing."""
    publish = ("heartbeat_queue_info", "queue_publish_kwargs")
    endpoint_id = _text(answer, "endpoint_id")
    if not is_uuid(endpoint_id):
        raise ServiceError("the service's answer has an impossible endpoint_id")
    return Registration(
        endpoint_id=endpoint_id,
        command_queue=_name(answer, "command_queue_info", "queue"),
        heartbeat_exchange=_name(answer, *publish, "exchange"),
        heartbeat_routing_key=_name(answer, *publish, "routing_key"),
        command_url=_text(answer, "command_queue_info", "connection_url"),
        heartbeat_url=_text(answer, "heartbeat_queue_info", "connection_url"),
    )


def register(
    serve: ServeEndpoint, endpoint_id: str | None, timeout: float = TIMEOUT_S
) -> Registration:
    """Register a new endpoint, or the one called ``endpoint_id`` again, which also gives
    fresh broker credentials. Blocks for at most three timeouts. Raises ServiceError."""
    token = bearer_token(serve.service_url, serve.credential, timeout)
    url = f"{serve.service_url.rstrip('/')}/v3/endpoints"
    if endpoint_id is not None:
        url += "/" + urllib.parse.quote(endpoint_id, safe="")
    request = urllib.request.Request(
        url,
        data=json.dumps(serve.registration).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="PUT" if endpoint_id is not None else "POST",
    )
    registration = read_registration(_call(request, timeout))
    if endpoint_id is not None and endpoint_id.lower() != registration.endpoint_id:
        raise ServiceError("the service's answer is about another endpoint_id")
    if not serve.want_identities:
        return registration
    return replace(registration, identities=_identities(serve.service_url, token, timeout))


def _identities(service_url: str, token: str, timeout: float) -> tuple[str, ...]:
    """The token's person, by all identities that are linked (OpenID Connect userinfo).

    Raises ServiceError, also for an answer without one: then nobody could be served.
    """
    request = urllib.request.Request(
        f"{service_url.rstrip('/')}/v2/oauth2/userinfo",
        headers={"Authorization": f"Bearer {token}"},
    )
    answer = _call(request, timeout)
    linked = answer.get("identity_set")
    entries = [answer, *(linked if type(linked) is list else [])]
    subjects = [e.get("sub") for e in entries if type(e) is dict]
    found = tuple(dict.fromkeys(s for s in subjects if type(s) is str and is_uuid(s)))
    if not found:
        raise ServiceError("the service does not say whose credentials these are")
    return found
