"""Runs one shell script in a process group that does not outlive the UEP.

Started as ``python -P -m mepd.uep.guard NAME``; the script comes on stdin as
``LENGTH NEWLINE TEXT``, and stdin's end of file, when the UEP dies in whatever way, ends
the group. Leaves with the script's exit status, 128 + N for a signal, as a shell would.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from mepd.errors import WireError


def _read_script() -> bytes:
    """All of it: a UEP that dies as it writes leaves a part, whose last line may mean more."""
    size = sys.stdin.buffer.readline()
    if not size.strip().isdigit():
        raise WireError("no script on stdin")
    script = sys.stdin.buffer.read(int(size))
    if len(script) < int(size):
        raise WireError("a part of the script on stdin")
    return script


def _end_with_stdin() -> None:
    try:
        while os.read(0, 4096):
            pass
    finally:
        os.killpg(0, signal.SIGKILL)


def main(argv: list[str]) -> int:
    os.setpgid(0, 0)
    try:
        script = _read_script()
    except WireError as e:
        sys.exit(f"{argv[1]} is not run: {e}")
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    fd = os.memfd_create(argv[1])
    os.write(fd, script)
    shell = ["/bin/sh", f"/proc/self/fd/{fd}"]
    status = subprocess.run(
        shell, stdin=subprocess.DEVNULL, pass_fds=(fd,), check=False
    ).returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv))
