"""What a block needs to start its pool: a script, our code as an archive, settings.

They are in the UEP's folder, which the nodes share, or within the command where a block is
no node of this site's. The pool runs with mepd's own Python, or with one that worker_init
put first in PATH and that has Parsl and the SDK.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import mepd
from mepd.uep import files

ARCHIVE, SCRIPT, SETTINGS = "workers.pyz", "workers.sh", "workers.json"
MODULES = (
    "__init__", "errors", "posix/__init__", "posix/ended", "posix/parent", "posix/syscalls",
    "posix/threads", "wire/__init__", "wire/framing", "wire/jsonlimits", "wire/message",
    "uep/__init__", "uep/failures", "uep/worker", "uep/engines/__init__",
    "uep/engines/execute", "uep/engines/frames", "uep/engines/sdk", "uep/engines/walltime",
    "uep/htex/__init__", "uep/htex/lean", "uep/htex/leaving", "uep/htex/pinning",
    "uep/htex/pool", "uep/htex/slot",
)  # fmt: skip
"""What pool and worker import of mepd."""
_MAIN = """\
import runpy, sys
runpy.run_module({"pool": "mepd.uep.htex.pool", "worker": "mepd.uep.worker"}[sys.argv.pop(1)],
                 run_name="__main__")
"""
_SCRIPT = """\
#!/bin/sh
# Starts the workers of one block. A Python that worker_init put first in PATH is taken if
# it has parsl and globus-compute-sdk, else that of mepd.
own={own}
usable() {{
    "$1" -c 'import importlib.util as u, sys
sys.exit(None in map(u.find_spec, ("parsl", "globus_compute_sdk")))' 2>/dev/null
}}
for found in "$(command -v python3)" "$(command -v python)"; do
    case $found in
        "" | {login3} | {login}) continue ;;
    esac
    if [ "$found" = "$own" ]; then
        break
    elif usable "$found"; then
        exec "$found" {archive} pool {settings} "$@"
    fi
    echo "mepd: not run with $found, which has no parsl or no globus-compute-sdk" >&2
done
if [ -x "$own" ]; then
    exec "$own" -P -m mepd.uep.htex.pool {settings} "$@"
fi
echo "mepd: $own is not on this machine" >&2
exec python3 {archive} pool {settings} "$@"
"""


def archive() -> bytes:
    """The modules of MODULES as a program for ``python FILE pool`` and ``... worker``."""
    root = Path(mepd.__file__).parent
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as z:
        for module in MODULES:
            z.writestr(f"mepd/{module}.py", (root / f"{module}.py").read_bytes())
        z.writestr("__main__.py", _MAIN)
    return data.getvalue()


def _login(name: str) -> str:
    """What ``name`` is before worker_init; a pattern that matches nothing if there is none."""
    found = shutil.which(name)
    return shlex.quote(found) if found else "''"


def script(archive_path: str, settings_path: str) -> str:
    """The text of the shell script; the paths are words of a shell."""
    return _SCRIPT.format(
        own=shlex.quote(sys.executable),
        login3=_login("python3"),
        login=_login("python"),
        archive=archive_path,
        settings=settings_path,
    )


def ship(folder: Path, settings: dict[str, Any]) -> str:
    """Write the three files; the command that starts a pool. Raises OSError."""
    paths = [shlex.quote(str(folder / name)) for name in (ARCHIVE, SETTINGS, SCRIPT)]
    for name, data in (
        (ARCHIVE, archive()),
        (SETTINGS, json.dumps(settings).encode()),
        (SCRIPT, script(paths[0], paths[1]).encode()),
    ):
        files.put(folder / name, data)
    return f"/bin/sh {paths[2]}"


def embedded(settings: dict[str, Any]) -> str:
    """A command that brings all of it along.

    It has no quote and no dollar, so that it passes through whatever a launcher makes of it.
    """
    text = "dir=$(mktemp -d) || exit\n"
    for name, data in ((ARCHIVE, archive()), (SETTINGS, json.dumps(settings).encode())):
        text += f'base64 -d > "$dir"/{name} <<END\n{base64.encodebytes(data).decode()}END\n'
    text += script(f'"$dir"/{ARCHIVE}', f'"$dir"/{SETTINGS}')
    return f"echo {base64.b64encode(text.encode()).decode()} | base64 -d | /bin/sh -s --"
