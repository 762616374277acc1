"""The config worker: tells the master what changed, and checks what the master has read.

It begins as root, makes its watches, and gives up every privilege. From then on it can
open none of the files that it watches: the master reads them and hands it their texts.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from mepd import log
from mepd.config.watchplan import WatchPlan
from mepd.errors import ConfigError, WireError
from mepd.watcher import bounds, checks, watches
from mepd.wire import codec, framing
from mepd.wire.worker import TO_WATCHER, Changed, Ping, Pong, Ready, Stop, Validate, Validated

TITLE = "mepd: config-watcher"
_CHUNK = 64 * 1024
_REASON_MAX = 2000

_log = logging.getLogger(__name__)


class _Master:
    """The socket to the master, written by two threads."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.setblocking(True)

    def send(self, message: Any) -> None:
        """Blocks while the master is behind. Raises OSError when it is gone."""
        frame = framing.encode_frame(codec.encode(message), framing.WORKER_FRAME_MAX)
        with self._lock:
            self._sock.sendall(frame)

    def receive(self) -> bytes:
        """Blocks; nothing when the master is gone."""
        try:
            return self._sock.recv(_CHUNK)
        except OSError:
            return b""


def validate(request: Validate) -> str:
    """What is wrong with an endpoint's files: file, line if known, and reason. Empty when
    they are good."""
    files = request.files
    try:
        with bounds.time_limit():
            checks.check_endpoint(request.endpoint, files)
        return ""
    except ConfigError as e:
        return str(e)[:_REASON_MAX]
    except bounds.TimeUp:
        return f"checking {_names(files)} takes longer than {bounds.SECONDS_MAX:.0f} s"
    except MemoryError:
        return f"checking {_names(files)} takes too much memory"
    except RecursionError:
        return f"{_names(files)}: nested too deeply"
    except Exception as e:
        _log.exception("a fault while checking %s", _names(files))
        return f"{_names(files)}: not checked: {type(e).__name__}"


def _names(files: dict[str, str]) -> str:
    return ", ".join(sorted(files))[:200]


def _tell_changes(notify: Any, names: frozenset[str], master: _Master) -> None:
    """The second thread: ends with the master, ends the process when it cannot go on."""
    try:
        watches.tell(notify, names, lambda paths: master.send(Changed(paths)))
    except OSError:
        pass  # the main thread sees the end of file
    except BaseException:
        _log.exception("watching for changes failed")
        os._exit(os.EX_SOFTWARE)


def _answer(master: _Master) -> int:
    """The main thread: until the master says Stop or is gone. Returns the exit code."""
    reader = framing.FrameReader(framing.WORKER_FRAME_MAX)
    while data := master.receive():
        for obj in reader.feed(data):
            message: Any = codec.decode(obj, TO_WATCHER)
            if isinstance(message, Stop):
                return os.EX_OK
            if isinstance(message, Ping):
                master.send(Pong())
                continue
            assert isinstance(message, Validate)
            master.send(Validated(message.token, validate(message)))
    return os.EX_OK


def check(sock: socket.socket) -> int:
    """A life without watches and without rights: to check what mepd is to start with."""
    log.configure("mepd: config-check", [log.JsonLineHandler()], "WARNING")
    bounds.limit_memory()
    return _answer(_Master(sock))


def run(sock: socket.socket, plan: WatchPlan, drop: Callable[[], None]) -> int:
    """The worker's life, entered as root; ``sock`` leads to the master, ``drop`` becomes
    the service account for good.

    The native watcher's thread exists when ``drop`` is called: libc changes the ids of
    all threads, and with that the kernel clears their capabilities. Returns the exit code.
    """
    level = logging.getLevelName(logging.getLogger().getEffectiveLevel())
    log.configure(TITLE, [log.JsonLineHandler()], level)
    try:
        notify = watches.make(plan.folders)
        drop()
        bounds.limit_memory()
        master = _Master(sock)
        if notify is not None:
            args = (notify, plan.names, master)
            threading.Thread(target=_tell_changes, args=args, daemon=True).start()
        master.send(Ready())
        return _answer(master)
    except ConnectionError:
        return os.EX_OK
    except WireError as e:
        _log.critical("the master's message is unusable: %s", e)
        return os.EX_PROTOCOL
    except Exception:
        _log.exception("the config worker failed")
        return os.EX_SOFTWARE
