"""mepctl configure's authentication policies: made at the web service, named in config.yaml."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from mepd.config import ini
from mepd.config.configyaml import ConfigYaml
from mepd.config.settings import ServiceSection
from mepd.ctl import output
from mepd.ctl.main import DEFAULT_CONFIG, Target
from mepd.errors import ConfigError, ControlError

F = TypeVar("F", bound=Callable[..., Any])
MANAGE_PROJECTS = "urn:globus:auth:scope:auth.globus.org:manage_projects"
KEY = "authentication_policy"
_ENVIRONMENT = ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET")


@dataclass(frozen=True)
class PolicyOptions:
    """``existing``: a policy to apply; the others describe one to be made."""

    existing: str | None
    project: str | None
    display_name: str | None
    allowed: str | None
    excluded: str | None
    timeout: int | None

    @property
    def makes_one(self) -> bool:
        rest = (self.project, self.display_name, self.allowed, self.excluded, self.timeout)
        return any(value is not None for value in rest)

    @property
    def given(self) -> bool:
        return self.existing is not None or self.makes_one


def options(command: F) -> F:
    """The command's options of authentication policies, in the manual's words."""
    for option in reversed((
        click.option("--auth-policy", metavar="UUID", help="Apply an existing policy."),
        click.option(
            "--auth-policy-project-id",
            metavar="UUID",
            help="Project of the new policy (asked for if not given).",
        ),
        click.option("--auth-policy-display-name", metavar="TEXT", help="Name of the new policy."),
        click.option(
            "--allowed-domains", metavar="LIST", help="Domains that satisfy it: *.edu,globus.org"
        ),
        click.option("--excluded-domains", metavar="LIST", help="Domains that fail it."),
        click.option(
            "--auth-timeout",
            metavar="SECONDS",
            type=click.IntRange(min=0),
            help="Greatest age of a login; makes the policy one of high assurance.",
        ),
    )):  # fmt: skip
        command = option(command)
    return command


def read_options(
    auth_policy: str | None,
    auth_policy_project_id: str | None,
    auth_policy_display_name: str | None,
    allowed_domains: str | None,
    excluded_domains: str | None,
    auth_timeout: int | None,
) -> PolicyOptions:
    """Raises ControlError for values that are none, or do not go together."""
    found = PolicyOptions(
        _uuid(auth_policy, "--auth-policy"),
        _uuid(auth_policy_project_id, "--auth-policy-project-id"),
        auth_policy_display_name,
        allowed_domains,
        excluded_domains,
        auth_timeout,
    )
    if found.existing is not None and found.makes_one:
        raise ControlError(
            "--auth-policy applies an existing policy; the other options make a new one",
            os.EX_USAGE,
        )
    if allowed_domains is not None:
        domains(allowed_domains, "--allowed-domains")
    if excluded_domains is not None:
        domains(excluded_domains, "--excluded-domains")
    return found


def _uuid(text: str | None, option: str) -> str | None:
    try:
        return str(uuid.UUID(text)) if text is not None else None
    except ValueError:
        raise ControlError(f"{option} must be a UUID, not {text!r:.80}", os.EX_USAGE) from None


def domains(text: str, option: str) -> list[str]:
    """A comma separated list of domains, which may have wildcards. Raises ControlError."""
    found = [part.strip().lower() for part in text.split(",") if part.strip()]
    for part in found:
        if not re.fullmatch(r"[a-z0-9*]([a-z0-9.*-]{0,251}[a-z0-9*])?", part):
            raise ControlError(f"{option}: {part!r:.80} is no domain", os.EX_USAGE)
    if not found:
        raise ControlError(f"{option} names no domain", os.EX_USAGE)
    return found


# --- the web service ------------------------------------------------------------------
def _service(target: Target) -> ServiceSection:
    """``[service]`` of mepd.conf; its defaults where that cannot be read."""
    try:
        return ini.load(target.config or DEFAULT_CONFIG).service
    except (FileNotFoundError, PermissionError):
        if target.config is not None:
            raise
        return ServiceSection()


def _credential(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        raise ConfigError("not JSON", str(path)) from None
    if not isinstance(value, dict):
        raise ConfigError("not a JSON object", str(path))
    return value


def _client(service: ServiceSection) -> Any:
    """A globus_sdk.AuthClient: for the client of the environment, else by mepd's own
    credentials, else for the person, who is asked to log in."""
    import globus_sdk

    url = service.url.rstrip("/") + "/"
    if service.credentials is not None and not all(os.environ.get(n) for n in _ENVIRONMENT):
        credential = _credential(service.credentials)
        if isinstance(credential.get("token"), str):
            known: Any = globus_sdk.AccessTokenAuthorizer(credential["token"])
        else:
            confidential = globus_sdk.ConfidentialAppAuthClient(
                str(credential.get("client_id")), str(credential.get("client_secret")), base_url=url
            )
            known = globus_sdk.ClientCredentialsAuthorizer(confidential, MANAGE_PROJECTS)
        return globus_sdk.AuthClient(base_url=url, authorizer=known)
    os.environ.setdefault("GLOBUS_SDK_SERVICE_URL_AUTH", url)
    from globus_compute_sdk.sdk.auth.auth_client import ComputeAuthClient
    from globus_compute_sdk.sdk.auth.globus_app import get_globus_app

    return ComputeAuthClient(app=get_globus_app())


def _choose_project(client: Any) -> str:
    """One of the caller's projects, or a new one."""
    known = list(client.get_projects()["projects"])
    for number, project in enumerate(known, start=1):
        text = f"{number}: {project['display_name']} ({project['id']})"
        click.echo(output.printable(text), err=True)
    if known:
        choice = click.prompt(
            "Project of the policy (0 makes a new one)",
            type=click.IntRange(0, len(known)),
            default=1,
            err=True,
        )
        if choice:
            return str(known[choice - 1]["id"])
    name = click.prompt("Name of the new project", err=True)
    email = click.prompt("Its contact address", err=True)
    made = client.create_project(
        display_name=name, contact_email=email, admin_ids=[client.userinfo()["sub"]]
    )
    return str(made["project"]["id"])


def _make(client: Any, wanted: PolicyOptions, endpoint: str) -> str:
    name = wanted.display_name or f"Policy of {endpoint}"
    values: dict[str, Any] = {
        "project_id": wanted.project or _choose_project(client),
        "display_name": name,
        "description": f"Who may use the endpoint {endpoint}",
    }
    if wanted.allowed is not None:
        values["domain_constraints_include"] = domains(wanted.allowed, "--allowed-domains")
    if wanted.excluded is not None:
        values["domain_constraints_exclude"] = domains(wanted.excluded, "--excluded-domains")
    if wanted.timeout is not None:
        values["authentication_assurance_timeout"] = wanted.timeout
        values["high_assurance"] = True
    return str(client.create_policy(**values)["policy"]["id"])


def policy_id(target: Target, wanted: PolicyOptions, endpoint: str) -> str:
    """The policy to apply, made if need be. Raises ControlError, ConfigError."""
    if wanted.existing is not None:
        return wanted.existing
    import globus_sdk

    service = _service(target)
    try:
        return _make(_client(service), wanted, endpoint)
    except globus_sdk.GlobusAPIError as e:
        reason = f"{e.http_status} {e.message or e.http_reason}"
        raise ControlError(f"{service.url} refused the policy: {reason}", os.EX_NOPERM) from None
    except (globus_sdk.GlobusError, KeyError) as e:
        raise ControlError(
            f"the policy could not be made at {service.url}: {type(e).__name__}",
            os.EX_UNAVAILABLE,
        ) from None


# --- config.yaml ----------------------------------------------------------------------
def with_policy(text: str, ident: str) -> str:
    """config.yaml's text with the policy in force, everything else as it is."""
    line = f"{KEY}: {ident}"
    changed, count = re.subn(rf"(?m)^(['\"]?){KEY}\1[ \t]*:.*$", line, text, count=1)
    if count:
        return changed
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"


def apply(config: Path, ident: str) -> None:
    """Name the policy in an endpoint's config.yaml, which is replaced as a whole.

    Raises ConfigError, OSError.
    """
    text = with_policy(config.read_text("utf-8"), ident)
    if ConfigYaml(text, config).uuid(KEY) != ident:
        raise ConfigError(f"{KEY} cannot be set here; edit the file", str(config))
    status = config.stat()
    draft = config.with_name(f".{config.name}.{os.getpid()}.new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, status.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(draft, config)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
