"""The start request: a command message of the service, validated into a StartRequest.

Pure and total: whatever bytes arrive, the outcome is a StartRequest or a RequestError.
The facts rest on globus-compute-endpoint 4.19, ``endpoint/core_endpoint.py``.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mepd.errors import RequestError, WireError
from mepd.model import UEP_NAME, StartRequest
from mepd.wire import jsonlimits
from mepd.wire.framing import parse_json

BODY_MAX = 4 * 1024 * 1024
USER_OPTS_MAX = 64 * 1024
IDENTITIES_MAX = 256
CREDS_VALUES_MAX = 4096
USERNAME_MAX = 4096
"""Characters: it is kept for lists and records of what runs and what failed."""
MAX_SKEW_S = 180
URL_MAX = 4096
COMMAND = "cmd_start_endpoint"
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CREDS_QUEUES = ("task_queue_info", "result_queue_info", "heartbeat_queue_info")


def _usable_creds(kwargs: Any) -> dict[str, Any] | None:
    """The credentials of a message if a notice can be sent with them."""
    creds = kwargs.get("amqp_creds") if type(kwargs) is dict else None
    if type(creds) is not dict:
        return None
    info = creds.get("heartbeat_queue_info")
    if type(info) is not dict or type(creds.get("endpoint_id")) is not str:
        return None
    publish = info.get("queue_publish_kwargs")
    if type(publish) is not dict:
        return None
    texts = (info.get("connection_url"), publish.get("exchange"), publish.get("routing_key"))
    return creds if all(type(t) is str for t in texts) else None


def _require(obj: dict[str, Any], key: str, kind: type) -> Any:
    if key not in obj:
        raise WireError(f"{key!r} is missing")
    if type(obj[key]) is not kind:
        raise WireError(f"{key!r} is a {type(obj[key]).__name__}, must be a {kind.__name__}")
    return obj[key]


def _identity(value: Any, index: int) -> dict[str, Any]:
    if type(value) is not dict:
        raise WireError(f"globus_identity_set[{index}] is no object")
    for key, item in value.items():
        if not isinstance(item, (str, int, float, bool, type(None))):
            raise WireError(f"globus_identity_set[{index}].{key[:40]!r} is no plain value")
    return value


def _check_creds(creds: dict[str, Any], uep_id: str) -> None:
    if creds.get("endpoint_id") != uep_id:
        raise WireError("amqp_creds.endpoint_id does not match the name")
    for queue in _CREDS_QUEUES:
        info = creds.get(queue)
        if type(info) is not dict or type(info.get("connection_url")) is not str:
            raise WireError(f"amqp_creds.{queue}.connection_url is missing")
        if len(info["connection_url"]) > URL_MAX:
            raise WireError(f"amqp_creds.{queue}.connection_url is too long")


def _start_request(message: dict[str, Any], timestamp: int) -> StartRequest:
    command = message.get("command")
    if command != COMMAND:
        raise WireError(f"unknown command {str(command)[:60]!r}")
    args = message.get("args") or []
    if args != []:
        raise WireError("'args' must be empty")
    kwargs = _require(message, "kwargs", dict)
    name = _require(kwargs, "name", str)
    match = UEP_NAME.fullmatch(name)
    if match is None:
        raise WireError("'name' is not of the form uep.UUID.UUID")
    effective = _require(message, "globus_effective_identity", str)
    if _UUID.fullmatch(effective) is None:
        raise WireError("'globus_effective_identity' is no UUID")
    username = _require(message, "globus_username", str)
    if len(username) > USERNAME_MAX:
        raise WireError(f"'globus_username' is longer than {USERNAME_MAX} characters")
    identities = _require(message, "globus_identity_set", list)
    if not identities:
        raise WireError("'globus_identity_set' names no identity")
    if len(identities) > IDENTITIES_MAX:
        raise WireError(f"'globus_identity_set' has more than {IDENTITIES_MAX} identities")
    creds = _require(kwargs, "amqp_creds", dict)
    _check_creds(creds, match[2])
    jsonlimits.check(creds, "amqp_creds", most=CREDS_VALUES_MAX)
    jsonlimits.check(identities, "globus_identity_set")
    opts = kwargs.get("user_opts") or {}
    runtime = kwargs.get("user_runtime") or {}
    for label, value in (("user_opts", opts), ("user_runtime", runtime)):
        if type(value) is not dict:
            raise WireError(f"{label!r} is no object")
        jsonlimits.check(value, label)
        if len(json.dumps(value)) > USER_OPTS_MAX:
            raise WireError(f"{label!r} is larger than {USER_OPTS_MAX} bytes")
    return StartRequest(
        name=name,
        mep_id=match[1],
        uep_id=match[2],
        effective_identity=effective,
        username=username,
        identity_set=tuple(_identity(v, i) for i, v in enumerate(identities)),
        timestamp=timestamp,
        amqp_creds=creds,
        user_opts=opts,
        user_runtime=runtime,
    )


def decode(
    body: bytes, content_type: object, timestamp: object, now: float, mep_id: str | None = None
) -> StartRequest:
    """Validate one delivery of the command queue.

    ``timestamp`` is the AMQP property in seconds since the epoch, ``now`` the clock;
    ``mep_id`` is the endpoint that owns the queue. Raises RequestError, never anything
    else, with the message's credentials when a notice could be sent with them.
    """
    creds: dict[str, Any] | None = None
    try:
        if len(body) > BODY_MAX:
            raise WireError(f"body of {len(body)} bytes exceeds {BODY_MAX}")
        if content_type != "application/json":
            raise WireError("content type is not application/json")
        message = parse_json(body, strict=False)  # NaN is refused below, with its place
        if type(message) is not dict:
            raise WireError("message is no object")
        creds = _usable_creds(message.get("kwargs"))
        if type(timestamp) is not int:
            raise WireError("message has no timestamp")
        if abs(now - timestamp) > MAX_SKEW_S:
            raise WireError(
                "Ignoring command from server\n"
                "Command too old or skew between system clocks is too large."
                f"\n  Command timestamp:  {timestamp}\n  Endpoint timestamp: {round(now)}"
            )
        request = _start_request(message, timestamp)
        if mep_id is not None and request.mep_id != mep_id:
            raise WireError("the name belongs to another endpoint")
        return request
    except WireError as e:
        raise RequestError(str(e), creds) from None
    except RecursionError:
        raise RequestError("message is nested too deeply", creds) from None


def to_json(request: StartRequest) -> dict[str, Any]:
    """The request as a JSON object for the socketpair to the master."""
    return {
        "name": request.name,
        "effective_identity": request.effective_identity,
        "username": request.username,
        "identity_set": list(request.identity_set),
        "timestamp": request.timestamp,
        "amqp_creds": request.amqp_creds,
        "user_opts": request.user_opts,
        "user_runtime": request.user_runtime,
    }


def from_json(obj: dict[str, Any]) -> StartRequest:
    """The inverse of :func:`to_json`, checked again: the sender has fewer rights.

    Raises WireError.
    """
    return _start_request(
        {
            "command": COMMAND,
            "kwargs": {k: obj.get(k) for k in ("name", "amqp_creds", "user_opts", "user_runtime")},
            "globus_effective_identity": obj.get("effective_identity"),
            "globus_username": obj.get("username"),
            "globus_identity_set": obj.get("identity_set"),
        },
        _require(obj, "timestamp", int),
    )
