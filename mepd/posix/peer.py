"""Who is at the other end of a unix socket."""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

_UCRED = struct.Struct("iII")
_GIDS = struct.Struct("I")
_SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h
_GROUPS_MAX = 256  # what socket.getsockopt() has room for


@dataclass(frozen=True)
class Peer:
    """Credentials of the process that connected, as the kernel noted them then.

    From SO_PEERCRED and SO_PEERGROUPS (unix(7)): looking up who is in a group could wait
    for a directory server. Of a process with more than 256 groups only ``gid`` is known.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def peer_of(connection: socket.socket) -> Peer:
    """Raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_MAX * _GIDS.size)
    except OSError as e:
        if e.errno != errno.ERANGE:
            raise
        groups = b""
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid, uid, gid, tuple(g for (g,) in _GIDS.iter_unpack(groups)))
