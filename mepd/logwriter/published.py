"""A file that others read at any moment: always there as a whole, gone when mepd is."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


class Published:
    """The metrics' file of the node exporter's textfile collector, for instance."""

    def __init__(self) -> None:
        self._path = ""

    def replace(self, path: str, text: str) -> None:
        """Put ``text`` at ``path``; with another path than before, or none, that one goes.

        Raises OSError, with the former content in place.
        """
        if path != self._path:
            self.remove()
        if not path:
            return
        fd, temporary = tempfile.mkstemp(prefix=".", suffix=".new", dir=Path(path).parent)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                os.fchmod(f.fileno(), 0o644)
                f.write(text)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._path = path

    def remove(self) -> None:
        """What is no longer kept up to date would be taken for the truth."""
        if self._path:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        self._path = ""
