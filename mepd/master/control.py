"""The control socket: framed JSON requests of mepctl, answered by peer credentials."""

from __future__ import annotations

import grp
import logging
import os
import pwd
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mepd.errors import ControlError, WireError
from mepd.master.channel import Channel
from mepd.master.loop import Loop
from mepd.posix.peer import Peer, peer_of
from mepd.wire import control
from mepd.wire.framing import CONTROL_FRAME_MAX

log = logging.getLogger(__name__)

_IDLE_MAX = 30.0
_PER_UID = 8
_TOTAL = 64
_BACKLOG = 64

Handler = Callable[[Peer, str, dict[str, Any]], Any]


def listen(path: Path, mode: int, chown: str) -> socket.socket:
    """Bind the control socket, never for a moment with a wider mode than asked for.

    A stale socket of a dead mepd is replaced. ``chown`` is USER[:GROUP]; without root the
    socket is the caller's, whatever USER says. Raises OSError or KeyError.
    """
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        server.bind(str(path))
    finally:
        os.umask(old)
    uid, gid = owner(chown)
    os.chown(path, uid if os.geteuid() == 0 else -1, -1 if gid is None else gid)
    os.chmod(path, mode)
    server.listen(_BACKLOG)
    server.setblocking(False)
    return server


def owner(chown: str) -> tuple[int, int | None]:
    """uid and gid of USER[:GROUP]; no gid without GROUP. Raises KeyError.

    Only a group that is written there makes its members administrators: the primary
    group of a user is not meant by naming the user.
    """
    user, _, group = chown.partition(":")
    return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid if group else None


class ControlServer:
    """Accepts connections and hands each request to ``handle``.

    A client is told of every error. One that stalls is dropped after 30 s, and one uid
    cannot take all places.
    """

    def __init__(self, loop: Loop, server: socket.socket, handle: Handler) -> None:
        self._loop = loop
        self._server = server
        self._handle = handle
        self._clients: dict[int, int] = {}
        loop.watch(server.fileno(), self._accept)

    def close(self) -> None:
        self._loop.forget(self._server.fileno())
        self._server.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            return
        except OSError as e:
            log.error("control socket: cannot accept: %s", e)
            self._pause()
            return
        try:
            peer = peer_of(connection)
        except OSError:
            connection.close()
            return
        mine = sum(1 for uid in self._clients.values() if uid == peer.uid)
        crowded = len(self._clients) >= _TOTAL and peer.uid != 0
        if crowded or mine >= _PER_UID * (4 if peer.uid == 0 else 1):
            connection.close()
            return
        self._serve(connection, peer)

    def _pause(self) -> None:
        """Out of descriptors: look again later instead of spinning."""
        fd = self._server.fileno()
        self._loop.forget(fd)

        def again() -> None:
            if self._server.fileno() == fd:
                self._loop.watch(fd, self._accept)

        self._loop.call_later(1.0, again)

    def _serve(self, connection: socket.socket, peer: Peer) -> None:
        key = connection.fileno()
        self._clients[key] = peer.uid

        def closed(_reason: str) -> None:
            timer.cancel()
            self._clients.pop(key, None)

        def request(frame: Any) -> None:
            channel.send(self._answer(peer, frame))

        def expired() -> None:
            channel.close()
            closed("")

        channel = Channel(self._loop, connection, request, closed, CONTROL_FRAME_MAX)
        timer = self._loop.call_later(_IDLE_MAX, expired)

    def _answer(self, peer: Peer, frame: Any) -> dict[str, Any]:
        try:
            verb, args = control.parse_request(frame)
            return control.answer(self._handle(peer, verb, args))
        except WireError as e:
            return control.refusal(str(e), os.EX_USAGE)
        except ControlError as e:
            return control.refusal(str(e), e.exit_code)
        except Exception as e:
            log.exception("control request failed")
            return control.refusal(f"internal error: {type(e).__name__}", os.EX_SOFTWARE)
