"""The control socket: framed JSON requests of mepctl, answered by peer credentials."""

from __future__ import annotations

import contextlib
import grp
import logging
import os
import pwd
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mepd.errors import ControlError, WireError
from mepd.master.callers import Callers
from mepd.master.channel import Channel
from mepd.master.later import Later, Stream
from mepd.master.loop import Loop, Timer
from mepd.posix.peer import Peer, peer_of
from mepd.wire import control
from mepd.wire.framing import CONTROL_FRAME_MAX, encode_frame

log = logging.getLogger(__name__)

_REQUEST_MAX = 30.0
"""Seconds for a request to come whole, and for its answer to be read."""
_UNREAD_MAX = 256 * 1024
_BACKLOG = 1024
_ACCEPTED_MAX = 32
"""Connections to take in one turn of the loop."""

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


def remove(path: Path) -> None:
    """At the end, which comes also where the disk is read-only: the next start replaces it."""
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        log.warning("%s stays: %s", path, e.strerror)


def owner(chown: str) -> tuple[int, int | None]:
    """uid and gid of USER[:GROUP]; no gid without GROUP. Raises KeyError.

    Only a group that is written there makes its members administrators: the primary
    group of a user is not meant by naming the user.
    """
    user, _, group = chown.partition(":")
    return pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid if group else None


class ControlServer:
    """Accepts connections and hands the one request of each to ``handle``.

    A client is told of every error. One that stalls is dropped after 30 s, one uid cannot
    take all places, and one that asks without end waits its turn.
    """

    def __init__(
        self,
        loop: Loop,
        server: socket.socket,
        handle: Handler,
        is_administrator: Callable[[Peer], bool] = lambda peer: peer.uid == 0,
    ) -> None:
        self._loop = loop
        self._server = server
        self._handle = handle
        self._is_administrator = is_administrator
        self._callers = Callers(loop.clock)
        loop.watch(server.fileno(), self._accept)

    def close(self) -> None:
        self._loop.forget(self._server.fileno())
        self._server.close()

    def _accept(self) -> None:
        """Faster than one account can knock: who waits behind a flood is soon served."""
        for _ in range(_ACCEPTED_MAX):
            try:
                connection, _ = self._server.accept()
            except BlockingIOError:
                return
            except OSError as e:
                log.error("control socket: cannot accept: %s", e)
                self._pause()
                return
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        try:
            peer = peer_of(connection)
        except OSError:
            connection.close()
            return
        place = _Place(self._callers, peer, self._is_administrator(peer))
        refusal = place.refusal()
        if refusal is None:
            _Conversation(self._loop, connection, place, self._handle)
        else:
            _turn_away(connection, refusal)

    def _pause(self) -> None:
        """Out of descriptors: look again later instead of spinning."""
        fd = self._server.fileno()
        self._loop.forget(fd)

        def again() -> None:
            if self._server.fileno() == fd:
                self._loop.watch(fd, self._accept)

        self._loop.call_later(1.0, again)


def _turn_away(connection: socket.socket, refusal: str) -> None:
    """A word that fits the socket's empty buffer, and goodbye."""
    answer = control.refusal(f"{refusal}; try again later", os.EX_TEMPFAIL)
    connection.setblocking(False)
    with contextlib.suppress(OSError):
        connection.send(encode_frame(answer))
    connection.close()


@dataclass(frozen=True)
class _Place:
    """One caller among the callers."""

    callers: Callers
    peer: Peer
    administrator: bool

    def refusal(self) -> str | None:
        return self.callers.refusal(self.peer.uid, self.administrator)

    def take(self) -> None:
        self.callers.came(self.peer.uid, self.administrator)

    def leave(self) -> None:
        self.callers.left(self.peer.uid, self.administrator)

    def wait(self) -> float:
        return self.callers.wait(self.peer.uid, self.administrator)


class _Conversation:
    """One connection: a request, and an answer now, later, or without end."""

    def __init__(
        self, loop: Loop, connection: socket.socket, place: _Place, handle: Handler
    ) -> None:
        self._loop = loop
        self._place = place
        self._handle = handle
        self._asked = False
        self._unread_max = _UNREAD_MAX
        self._leave: Callable[[], None] = lambda: None
        self._channel = Channel(
            loop, connection, self._request, self._closed, CONTROL_FRAME_MAX,
            last_word=lambda reason: control.refusal(reason, os.EX_USAGE),
        )  # fmt: skip
        self._timer: Timer = loop.call_later(_REQUEST_MAX, self._close)
        place.take()

    def _closed(self, _reason: str) -> None:
        self._timer.cancel()
        self._place.leave()
        self._leave()

    def _close(self) -> None:
        self._channel.close()
        self._closed("")

    def _request(self, frame: Any) -> None:
        if self._asked:  # more than one request: whoever does that gets no answer
            self._close()
            return
        self._asked = True
        wait = self._place.wait()
        if not wait:
            self._answer(frame)
            return
        self._timer.cancel()
        self._timer = self._loop.call_later(wait, lambda: self._answer(frame))

    def _answer(self, frame: Any) -> None:
        self._timer.cancel()
        if not self._channel.is_open:
            return
        result = self._result(frame)
        if isinstance(result, Later):
            result.then(self._finish)
        elif isinstance(result, Stream):
            for data in result.first:
                self._send(data)
            self._unread_max += self._channel.unsent  # which can be much, and nobody's fault
            if self._channel.is_open:
                self._leave = result.begin(self._send_on)
        else:
            self._finish(result)

    def _result(self, frame: Any) -> Any:
        try:
            verb, args = control.parse_request(frame)
            return self._handle(self._place.peer, verb, args)
        except WireError as e:
            return ControlError(str(e), os.EX_USAGE)
        except ControlError as e:
            return e
        except Exception as e:
            log.exception("control request failed")
            return ControlError(f"internal error: {type(e).__name__}", os.EX_SOFTWARE)

    def _finish(self, outcome: Any) -> None:
        self._send(outcome)
        if self._channel.is_open:
            self._timer = self._loop.call_later(_REQUEST_MAX, self._close)
            self._channel.finish()

    def _send(self, outcome: Any) -> None:
        if not self._channel.is_open:
            return
        refused = isinstance(outcome, ControlError)
        answer = (
            control.refusal(str(outcome), outcome.exit_code)
            if refused
            else control.answer(outcome)
        )
        try:
            self._channel.send(answer)
        except WireError as e:
            self._channel.send(control.refusal(f"the answer is too large: {e}", os.EX_SOFTWARE))

    def _send_on(self, data: Any) -> None:
        """One more answer of a stream; a client that does not read them is left."""
        self._send(data)
        if self._channel.is_open and self._channel.unsent > self._unread_max:
            self._close()
