"""The document on stdin: credentials and configuration from the manager that started us.

The form is that of globus-compute-endpoint: ``{"amqp_creds", "config", "ep_info",
"mem_fd"?, "enckey"?, "allowed_functions"?, "audit_fd"?}``; mepd adds ``notify_fd`` and
``config_values``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mepd.errors import WireError
from mepd.wire import jsonlimits
from mepd.wire.framing import parse_json

DESCRIPTOR_MAX = 2**31 - 1
NAME_MAX = 255
"""Bytes of a name in AMQP, a short string."""
QUEUES = ("task_queue_info", "result_queue_info", "heartbeat_queue_info")


@dataclass(frozen=True)
class Document:
    """``config`` is the rendered YAML, and ``config_values`` what it says, where whoever
    wrote the document has parsed it. ``notify_fd`` is None without mepd as the parent,
    ``audit_fd`` where tasks leave no audit records. ``mem_fd`` and ``enckey`` are for
    refreshed credentials (mepd.uep.credentials), both or neither."""

    endpoint_id: str
    amqp_creds: dict[str, Any] = field(repr=False)
    config: str
    ep_info: dict[str, Any]
    allowed_functions: tuple[str, ...] | None = None
    notify_fd: int | None = None
    audit_fd: int | None = None
    mem_fd: int | None = None
    enckey: str = field(default="", repr=False)
    config_values: dict[str, Any] | None = None


def _name(where: str, value: Any) -> None:
    """A name that AMQP can carry. Raises WireError."""
    try:
        if type(value) is str and len(value.encode()) <= NAME_MAX:
            return
    except UnicodeEncodeError:
        pass
    raise WireError(f"{where} is no name of at most {NAME_MAX} bytes")


def _properties(where: str, value: Any) -> None:
    """What each message is sent with, tried out here: later it would end the program."""
    if value is None or value == {}:
        return
    from mepd.uep.amqp import BasicProperties

    try:
        BasicProperties(message_id="", **value).encode()
    except Exception as e:
        raise WireError(f"{where} are none of AMQP ({type(e).__name__})") from None


def _publishing(where: str, value: Any) -> None:
    if type(value) is not dict:
        raise WireError(f"{where} is missing")
    for key in ("exchange", "routing_key"):
        if value.get(key) is not None:
            _name(f"{where}.{key}", value[key])
    _properties(f"{where}.properties", value.get("properties"))


def _queue(creds: dict[str, Any], name: str) -> None:
    info = creds.get(name)
    if type(info) is not dict:
        raise WireError(f"amqp_creds.{name} is missing or no object")
    if type(info.get("connection_url")) is not str or not info["connection_url"]:
        raise WireError(f"amqp_creds.{name}.connection_url is missing")
    if name == "task_queue_info":
        if type(info.get("queue")) is not str:
            raise WireError(f"amqp_creds.{name}.queue is missing")
        _name(f"amqp_creds.{name}.queue", info["queue"])
    else:
        _publishing(f"amqp_creds.{name}.queue_publish_kwargs", info.get("queue_publish_kwargs"))


def check_creds(creds: Any) -> dict[str, Any]:
    """``creds`` if they name the three queues. Raises WireError, quoting no value."""
    if type(creds) is not dict:
        raise WireError("amqp_creds is missing or no object")
    if type(creds.get("endpoint_id")) is not str:
        raise WireError("amqp_creds.endpoint_id is missing")
    for name in QUEUES:
        _queue(creds, name)
    return creds


def _functions(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if type(value) is not list or any(type(v) is not str for v in value):
        raise WireError("allowed_functions is no list of function ids")
    return tuple(v.lower() for v in value)


def _descriptor(obj: dict[str, Any], key: str) -> int | None:
    fd = obj.get(key)
    if fd is not None and (type(fd) is not int or not 3 <= fd <= DESCRIPTOR_MAX):
        raise WireError(f"{key} is no descriptor")
    return fd


def _key(obj: dict[str, Any]) -> str:
    key = obj.get("enckey") or ""
    if type(key) is not str:
        raise WireError("enckey is no string")
    if obj.get("mem_fd") is not None and not key:
        raise WireError("mem_fd needs enckey")
    return key


def parse(data: bytes) -> Document:
    """The document in ``data``. Raises WireError naming the field at fault."""
    obj = parse_json(data)
    if type(obj) is not dict:
        raise WireError("the document is no JSON object")
    creds = check_creds(obj.get("amqp_creds"))
    config, info = obj.get("config"), obj.get("ep_info") or {}
    if type(config) is not str:
        raise WireError("config is missing or no string")
    if type(info) is not dict:
        raise WireError("ep_info is no object")
    jsonlimits.check(info, "ep_info")
    values = obj.get("config_values")
    if values is not None and type(values) is not dict:
        raise WireError("config_values is no object")
    return Document(
        endpoint_id=creds["endpoint_id"],
        amqp_creds=creds,
        config=config,
        ep_info=info,
        allowed_functions=_functions(obj.get("allowed_functions")),
        notify_fd=_descriptor(obj, "notify_fd"),
        audit_fd=_descriptor(obj, "audit_fd"),
        mem_fd=_descriptor(obj, "mem_fd"),
        enckey=_key(obj),
        config_values=values,
    )
