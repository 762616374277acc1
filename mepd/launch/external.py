"""An external identity mapper: a program of the administrator's, run within bounds.

It reads identity_mapping_input#1.0.0 on stdin and writes identity_mapping_output#1.0.0
on stdout. It gets a clean environment and no descriptor but 0, 1 and 2, is killed with
its whole group at the timeout, and may print one megabyte.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from mepd.errors import MepdError
from mepd.posix import orphans, syscalls
from mepd.posix.process import die_with_parent
from mepd.wire.framing import parse_json

OUTPUT_MAX = 1024 * 1024
CONNECTOR_ID = "145812c8-decc-41f1-83cf-bb2a85a2a70b"
"""The connector that mappers are told: Globus Connect Server's POSIX one."""
_CHUNK = 65536


class MapperError(MepdError):
    """The external mapper did not do its job."""


def map_external(
    document: Mapping[str, Any],
    identities: Sequence[Mapping[str, Any]],
    endpoint_id: str,
    timeout: float,
) -> list[dict[str, list[str]]]:
    """Run the document's command once for all identities. Raises MapperError or OSError."""
    command = [str(word) for word in document["command"]]
    # In the order of the library: an administrator's script may rely on it.
    command += ["-c", CONNECTOR_ID, "-s", endpoint_id, "-a"]
    request = {"DATA_TYPE": "identity_mapping_input#1.0.0", "identities": list(identities)}
    output = _run(command, json.dumps(request).encode("ascii"), timeout)
    if not output.strip():
        return []
    return _parse(output, {str(i["id"]) for i in identities if "id" in i})


def _parse(output: bytes, known: set[str]) -> list[dict[str, list[str]]]:
    obj = parse_json(output)
    results = obj.get("result") if isinstance(obj, dict) else None
    if not isinstance(results, list) or obj.get("DATA_TYPE") != "identity_mapping_output#1.0.0":
        raise MapperError("output is no identity_mapping_output#1.0.0 document")
    found: dict[str, list[str]] = {}
    for item in results:
        identity_id = item.get("id") if isinstance(item, dict) else None
        name = item.get("output") if isinstance(item, dict) else None
        if not isinstance(identity_id, str) or not isinstance(name, str):
            raise MapperError("a result has no id or no output")
        if identity_id not in known:
            raise MapperError(f"Invalid ID in result: {identity_id[:40]!r}")
        if identity_id in found:
            raise MapperError(f"duplicate ID in result: {identity_id[:40]!r}")
        found[identity_id] = [name]
    return [found] if found else []


def _run(command: list[str], request: bytes, timeout: float) -> bytes:
    syscalls.set_subreaper()  # so that a mapper that daemonizes is swept, too
    try:
        return _ask(command, request, timeout)
    finally:  # also where there is no such program: what is left here would survive the exec
        orphans.end()
        syscalls.set_subreaper(False)


def _ask(command: list[str], request: bytes, timeout: float) -> bytes:
    parent = os.getpid()
    process = subprocess.Popen(
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        cwd="/",
        start_new_session=True,
        preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
    )
    try:
        output = _converse(process, request, time.monotonic() + timeout)
    except TimeoutError:
        raise MapperError(f"no answer within {timeout:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
    if process.returncode:
        raise MapperError(f"exit code {process.returncode}")
    return output


def _converse(process: subprocess.Popen[bytes], request: bytes, deadline: float) -> bytes:
    """Write the request, read the answer, wait for the end: all before the deadline."""
    assert process.stdin is not None and process.stdout is not None
    output = bytearray()
    view = memoryview(request)
    os.set_blocking(process.stdin.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(max(0.0, deadline - time.monotonic())) or _late(deadline):
                if key.fileobj is process.stdin:
                    view = _feed(process, view)
                    if not view:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                else:
                    chunk = os.read(process.stdout.fileno(), _CHUNK)
                    output += chunk
                    if not chunk:
                        selector.unregister(process.stdout)
                    if len(output) > OUTPUT_MAX:
                        raise MapperError(f"more than {OUTPUT_MAX} bytes of output")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    return bytes(output)


def _feed(process: subprocess.Popen[bytes], view: memoryview) -> memoryview:
    """Write what fits; an early close of its stdin is the mapper's own business."""
    assert process.stdin is not None
    try:
        return view[os.write(process.stdin.fileno(), view[:_CHUNK]) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:
        return memoryview(b"")


def _late(deadline: float) -> list[tuple[selectors.SelectorKey, int]]:
    if time.monotonic() >= deadline:
        raise TimeoutError
    return []
