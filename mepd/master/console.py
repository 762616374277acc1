"""What an administrator sees when mepd runs on a terminal."""

from __future__ import annotations

import sys
import time

from mepd.master.loop import Loop

_HIDE, _SHOW, _HIGHLIGHT, _PLAIN = "\033[?25l", "\033[?25h", "\033[104m", "\033[m"


class Console:
    """The endpoint's line and a clock each second, on a terminal only."""

    def __init__(self, loop: Loop, clock: bool) -> None:
        self._stream = next((s for s in (sys.stdout, sys.stderr) if s.isatty()), None)
        self._clock = clock and self._stream is not None
        if self._clock:
            self._write(_HIDE)
            loop.call_every(1.0, self._tick)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError:
                self._stream = None  # the terminal went away; mepd does not

    def endpoint(self, endpoint_id: str) -> None:
        self._write(f"    >>> Multi-User Endpoint ID: {_HIGHLIGHT}{endpoint_id}{_PLAIN} <<<\n")

    def _tick(self) -> None:
        self._write(f"----> {time.strftime('%c')}\r")

    def close(self) -> None:
        if self._clock:
            self._write(_SHOW + "\n")
