"""mepctl tail: the end of a log, and what is added to it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from mepd.ctl import complete, logtail, output
from mepd.ctl.main import Target
from mepd.ctl.output import Printer
from mepd.errors import ControlError

MASTER = "master"


@click.command("tail")
@click.argument("name", default=MASTER, metavar="[UEP|master]", shell_complete=complete.logs)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added.")
@click.option(
    "-n", "--lines", default=10, show_default=True, type=click.IntRange(min=0), metavar="N",
    help="So many lines of what is there.",
)  # fmt: skip
@output.printed
@click.pass_obj
def tail_(target: Target, out: Printer, name: str, follow: bool, lines: int) -> int:
    """Show the end of mepd's log, or of a user endpoint's.

    A user's log is read as that user. With --json one object a line.
    """
    where = target.call("log", **({} if name == MASTER else {"target": name}))
    tail = logtail.Tail(lines, follow, out.as_json)
    with contextlib.suppress(KeyboardInterrupt):
        if where["user"] is None:
            return tail.show(Path(where["path"]))
        return _of_user(where["user"], where["name"], tail)
    return os.EX_OK


def _of_user(user: str, name: str, tail: logtail.Tail) -> int:
    """Read ``~/.globus_compute/NAME/endpoint.log`` with the rights of its owner only."""
    from mepd.posix import accounts

    try:
        account = accounts.lookup(user)
    except KeyError:
        raise ControlError(f"there is no account {user!r}", os.EX_NOUSER) from None
    path = Path(account.home or "/") / ".globus_compute" / name / "endpoint.log"
    if account.uid == os.geteuid():
        return tail.show(path)
    if os.geteuid() != 0:
        raise ControlError(f"only root and {user} can read {path}", os.EX_NOPERM)
    return logtail.as_user(account, lambda: tail.show(path))
