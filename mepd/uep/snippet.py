"""endpoint_setup and endpoint_teardown: the user's shell scripts around the UEP's life."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable

log = logging.getLogger(__name__)


class Snippet:
    """One script, started at once. ``on_end(status)`` is called by reap(), in the loop.

    Its text is in no argument list. Raises OSError if it cannot be started.
    """

    def __init__(self, name: str, text: str, on_end: Callable[[int], None]) -> None:
        self.name = name
        self._on_end = on_end
        argv = [sys.executable, "-P", "-m", "mepd.uep.guard", name]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        script = text.encode("utf-8", "surrogateescape")
        log.info("running %s", name)
        assert self._process.stdin is not None
        self._process.stdin.write(b"%d\n" % len(script) + script)
        self._process.stdin.flush()

    def reap(self) -> bool:
        """Whether it has ended."""
        status = self._process.poll()
        if status is None:
            return False
        self.kill()
        log.log(logging.ERROR if status else logging.INFO, "%s: exit code %d", self.name, status)
        self._on_end(status)
        return True

    def kill(self) -> None:
        """Let go of the guard's stdin, which ends the whole group."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
