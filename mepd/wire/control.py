"""The control protocol of mepctl: framed JSON, one request a connection.

Request, of at most 128 KiB: ``{"v": 1, "verb": str, "args": object}``.
Answer, of at most 8 MiB: ``{"v": 1, "ok": true, "data": any}`` or
``{"v": 1, "ok": false, "error": {"message": str, "code": int}}`` with a sysexits(3) code.
The verb ``events`` with ``follow`` is answered by one answer after the other.
"""

from __future__ import annotations

import os
from typing import Any

from mepd.errors import ControlError, WireError

VERSION = 1


def request(verb: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"v": VERSION, "verb": verb, "args": args}


def parse_request(obj: Any) -> tuple[str, dict[str, Any]]:
    """The verb and arguments of a request. Raises WireError."""
    if type(obj) is not dict or obj.keys() != {"v", "verb", "args"}:
        raise WireError("request must be an object of v, verb and args")
    if obj["v"] != VERSION:
        raise WireError(f"control protocol version {str(obj['v'])[:20]!r}, need {VERSION}")
    if type(obj["verb"]) is not str or type(obj["args"]) is not dict:
        raise WireError("verb must be a string and args an object")
    return obj["verb"], obj["args"]


def answer(data: Any) -> dict[str, Any]:
    return {"v": VERSION, "ok": True, "data": data}


def refusal(message: str, code: int = os.EX_SOFTWARE) -> dict[str, Any]:
    return {"v": VERSION, "ok": False, "error": {"message": message, "code": code}}


def parse_answer(obj: Any) -> Any:
    """The data of an answer. Raises ControlError for a refusal, WireError for nonsense."""
    if type(obj) is not dict or obj.get("v") != VERSION or type(obj.get("ok")) is not bool:
        raise WireError("the answer does not fit the control protocol")
    data = obj.get("data" if obj["ok"] else "error")
    if type(data) is not dict:
        raise WireError("the answer does not fit the control protocol")
    if obj["ok"]:
        return data
    message, code = data.get("message"), data.get("code")
    if type(message) is not str or type(code) is not int or not 0 < code < 256:
        raise WireError("the refusal does not fit the control protocol")
    raise ControlError(message, code)
