"""Where mepd(8) begins: an isolated interpreter and a small environment, before all else.

Imports at first nothing but what the interpreter has loaded already: a module that an
outside folder could stand in for is not looked for until the path is the interpreter's own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = frozenset({
    "LANG", "LANGUAGE", "TZ", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY",
    "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR",
})  # fmt: skip


def reduced(environ: Mapping[str, str]) -> dict[str, str]:
    """What mepd itself needs of an environment: language, time zone, the way to the service."""
    kept = {k: v for k, v in environ.items() if k in _KEPT or k.startswith("LC_")}
    return {**kept, "PATH": PATH}


def main() -> int:
    """Run mepd; returns a sysexits(3) code.

    As root the interpreter is started anew with -I, once, if it was not isolated: neither
    PYTHON* variables nor root's own site folder count. %(ENV_X)s of the configuration gets
    the environment as it was; nothing else sees it.
    """
    if os.geteuid() == 0 and not sys.flags.isolated:
        words = [sys.executable, "-I", "-m", "mepd.master.entry", *sys.argv[1:]]
        os.execv(sys.executable, words)
    import setproctitle

    # It finds the room for titles while the environment is where the kernel put it.
    setproctitle.getproctitle()
    given = dict(os.environ)
    wanted = reduced(given)
    for name in given.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)
    from mepd.master import main as master

    return master.main(environ=given)


if __name__ == "__main__":
    sys.exit(main())
