"""What a check finds: one line each, in the order of the checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mepd.errors import MepdError

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """``of`` is mepd.conf or an endpoint; ``what`` was looked at."""

    of: str
    what: str
    state: str
    detail: str = ""


@dataclass
class Findings:
    """Collects; what raises becomes an error and ends nothing."""

    found: list[Finding] = field(default_factory=list)

    def note(self, of: str, what: str, state: str, detail: str = "") -> None:
        self.found.append(Finding(of, what, state, detail))

    def attempt(self, of: str, what: str, check: Callable[[], str]) -> bool:
        """Note what ``check`` says, or that it raised. Returns whether it did not."""
        try:
            self.note(of, what, OK, check())
        except OSError as e:
            where = f"{e.filename}: " if e.filename else ""
            self.note(of, what, ERROR, f"{where}{e.strerror or e}")
        except KeyError as e:
            self.note(of, what, ERROR, str(e.args[0]))
        except MepdError as e:
            self.note(of, what, ERROR, str(e))
        return self.found[-1].state == OK

    @property
    def errors(self) -> int:
        return sum(1 for f in self.found if f.state == ERROR)
