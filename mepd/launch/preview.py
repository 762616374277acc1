"""What a start would make of an identity and of options, for mepctl(8): nothing is started.

Reads one JSON object on stdin, the job, and writes one on stdout. The code that maps,
chooses the account and renders is that of a start, and so are the rights: mapping as the
caller, rendering as the account that was found, for good.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepd.config import folder, ini
from mepd.config.accountpolicy import account_policy
from mepd.config.launchplan import AccountPolicy, LaunchPlan
from mepd.config.settings import EndpointSnapshot, Settings
from mepd.errors import ConfigError, WireError
from mepd.launch import mapping, render, resolve
from mepd.launch.bounds import bounded
from mepd.launch.failure import StageError
from mepd.launch.resolve import Resolved
from mepd.model import StartRequest
from mepd.posix import accounts, rlimits
from mepd.wire import codec
from mepd.wire.framing import parse_json

_NOBODY = "nobody"
_NO_ID = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Job:
    """``config`` is mepd.conf's path, '' if there is none. ``user`` names an account in place
    of ``identities``."""

    verb: str
    config: str
    name: str
    directory: str
    identities: list[dict[str, Any]] = field(default_factory=list)
    user: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    runtime: dict[str, Any] = field(default_factory=dict)


class _Notes(logging.Handler):
    """What a start would log on its way."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _plan(job: Job, snapshot: EndpointSnapshot, settings: Settings) -> LaunchPlan:
    first = job.identities[0] if job.identities else {}
    request = StartRequest(
        name=f"uep.{_NO_ID}.{_NO_ID}",
        mep_id=snapshot.endpoint_id or _NO_ID,
        uep_id=_NO_ID,
        effective_identity=str(first.get("id", "")),
        username=str(first.get("username", "")),
        identity_set=tuple(job.identities),
        timestamp=0,
        amqp_creds={},
        user_opts=job.options,
        user_runtime=job.runtime,
    )
    return LaunchPlan(
        snapshot=snapshot,
        request=request,
        policy=_policy(settings),
        master_pid=os.getppid(),
        privileged=True,
        mapper_timeout=settings.mepd.mapper_timeout,
        render_timeout=settings.mepd.render_timeout,
    )


def _policy(settings: Settings) -> AccountPolicy:
    try:
        worker = accounts.lookup(settings.mepd.user)
    except KeyError:
        return account_policy(settings, ())
    return account_policy(settings, (worker.uid,), (worker.gid,))


def _reason(error: StageError) -> str:
    """Without the identity, which the caller has given."""
    return error.reason.partition("\n  Globus effective identity:")[0].replace("\n  ", " ")


# --- map ------------------------------------------------------------------------------
def _map(plan: LaunchPlan) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mapped": False, "document": None, "kind": None, "rule": None, "identity": None,
        "name": None, "user": None, "uid": None, "gid": None, "home": None, "reason": "",
    }  # fmt: skip
    try:
        hit = resolve.find_name(plan)
        number = len(hit.candidates)
        document = (plan.snapshot.mappings or ())[number - 1]
        found |= {
            "document": number,
            "kind": str(document["DATA_TYPE"]),
            "rule": _rule(document, plan.request.identity_set, hit),
            "identity": hit.identity_id,
            "name": hit.name,
        }
        account = resolve.find_account(hit.name, plan)
    except StageError as e:
        return {**found, "reason": _reason(e)}
    return {
        **found, "mapped": True, "user": account.name, "uid": account.uid, "gid": account.gid,
        "home": account.home,
    }  # fmt: skip


def _rule(
    document: dict[str, Any], identities: tuple[dict[str, Any], ...], hit: mapping.MappedIdentity
) -> int | None:
    """Which rule of an expression document it was; None for a program."""
    for number, rule in enumerate(document.get("mappings", ()), start=1):
        with bounded(mapping.EXPRESSION_TIMEOUT, "an expression mapping"):
            hits = mapping.map_expression({**document, "mappings": [rule]}, identities)
        if any(hit.name in names.get(hit.identity_id, ()) for names in hits):
            return number
    return None


# --- render ---------------------------------------------------------------------------
def _account(job: Job, plan: LaunchPlan) -> Resolved:
    """As whom to render; without root that can only be the caller. Raises StageError."""
    if job.identities:
        found = resolve.find_name(plan)
        account = resolve.find_account(found.name, plan)
        return Resolved(account, found.identity_id, found.candidates)
    if job.user:
        return Resolved(resolve.find_account(job.user, plan), "", [])
    if os.geteuid() == 0:
        return Resolved(accounts.lookup(_NOBODY), "", [])
    return Resolved(accounts.lookup_uid(os.geteuid()), "", [])


def _render(job: Job, plan: LaunchPlan) -> dict[str, Any]:
    try:
        resolved = _account(job, plan)
        if os.geteuid() == 0:
            accounts.drop_for_good(resolved.account)
        rlimits.no_core_dumps()
        text, _ = render.configuration(
            plan.snapshot,
            job.options,
            job.runtime,
            resolve.template_identity(resolved),
            plan.render_timeout,
        )
    except StageError as e:
        public = e.public_text(None) if e.public is None else e.public
        return {"text": None, "user": None, "stage": e.stage.name, "code": int(e.stage),
                "reason": _reason(e), "public": public}  # fmt: skip
    return {"text": text, "user": resolved.account.name, "stage": None, "code": 0, "reason": "",
            "public": ""}  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Raises ConfigError, OSError or KeyError."""
    path = Path(job.config) if job.config else Path("/nonexistent")
    settings = ini.load(path) if job.config else Settings(path=path)
    privileged = os.geteuid() == 0
    directory = Path(job.directory)
    snapshot = folder.parse(job.name, directory, folder.read(directory, privileged), privileged)
    notes = _Notes()
    logging.getLogger().handlers = [notes]
    logging.getLogger("mepd.launch").setLevel(logging.DEBUG)
    plan = _plan(job, snapshot, settings)
    answer = _map(plan) if job.verb == "map" else _render(job, plan)
    return {"endpoint": job.name, **answer, "notes": notes.texts}


def main() -> int:
    """Do one job. Returns a sysexits(3) code; what went wrong is in the answer."""
    try:
        message = {"kind": "Job", **parse_json(sys.stdin.buffer.read())}
        answer = run(codec.decode(message, (Job,)))
    except (WireError, TypeError) as e:
        answer = {"error": str(e), "exit_code": os.EX_DATAERR}
    except ConfigError as e:
        answer = {"error": str(e), "exit_code": os.EX_CONFIG}
    except KeyError as e:
        answer = {"error": str(e.args[0]), "exit_code": os.EX_CONFIG}
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        answer = {"error": f"{where}{e.strerror or e}", "exit_code": os.EX_NOINPUT}
    print(json.dumps(answer))
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
