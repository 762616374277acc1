"""Before mepd starts: the endpoints' files as those see them who will use them.

The libraries that compile templates, expressions and schemas are not the master's; a
process without rights that ends with its answer has them.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from mepd.errors import ConfigError
from mepd.master import spawner
from mepd.posix import process
from mepd.posix.accounts import Account
from mepd.wire import codec, framing
from mepd.wire.worker import FROM_WATCHER, Stop, Validate, Validated

log = logging.getLogger(__name__)

_ENTRY = "mepd.watcher.main:check"
_PATIENCE = 30.0
_LOOK = 0.2
_STOPS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_CHUNK = 64 * 1024
_WORDS_MAX = 16 * 1024


def check(folders: Mapping[Path, Mapping[str, str]], account: Account) -> None:
    """Check the texts of each folder's files, by name, as ``account``.

    Blocks for their imports and compilation, some tenths of a second. Raises ConfigError
    naming the file at fault, or OSError where no process can be had or it does not answer.
    """
    if not folders:
        return
    spawned = spawner.worker("mepd: config-check", _ENTRY, account, None, True)
    identity = process.identify(spawned.pid)
    try:
        for folder, files in folders.items():
            error = _ask(spawned.sock, Validate("start", folder.name, dict(files)))
            if error:
                raise ConfigError(str(folder / error))
        _send(spawned.sock, Stop())
    except OSError:
        log.error("config-check did not answer: %s", _last_words(spawned.stderr) or "no word")
        raise
    finally:
        spawned.sock.close()
        if identity is not None:
            process.kill_tree(identity)
        os.waitpid(spawned.pid, 0)
        os.close(spawned.stderr)


def _last_words(stderr: int) -> str:
    """What the process had to say of its end, by its last line."""
    os.set_blocking(stderr, False)
    try:
        lines = os.read(stderr, _WORDS_MAX).decode("utf-8", "replace").split("\n")
    except BlockingIOError:
        return ""
    return next((line for line in reversed(lines) if line.strip()), "")


def _send(sock: socket.socket, message: object) -> None:
    sock.settimeout(_PATIENCE)
    sock.sendall(framing.encode_frame(codec.encode(message), framing.WORKER_FRAME_MAX))


def _ask(sock: socket.socket, question: Validate) -> str:
    """What is wrong, '' for nothing."""
    _send(sock, question)
    sock.settimeout(_LOOK)
    reader = framing.FrameReader(framing.WORKER_FRAME_MAX)
    while data := _receive(sock):
        for frame in reader.feed(data):
            answer: object = codec.decode(frame, FROM_WATCHER)
            if isinstance(answer, Validated):
                return answer.error
    raise ConnectionAbortedError("the process that checks the configuration ended")


def _receive(sock: socket.socket) -> bytes:
    """What comes in time. Raises OSError, also when mepd was told to stop meanwhile: signals
    wait for its loop."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            return sock.recv(_CHUNK)
        except TimeoutError:
            if signal.sigpending() & _STOPS:
                raise InterruptedError("told to stop") from None
    raise TimeoutError(f"no answer in {_PATIENCE:g} s")
