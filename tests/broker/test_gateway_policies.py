"""Authentication policies, and the interactive login, as stock programs meet them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
import yaml
from gateway_fixtures import SDK_PORT, FakeMep, Site, User, payload, running_site, unique
from globus_sdk.gare import to_gare
from login_fixtures import Browser, person

from mepd.config import registration
from mepd.config.configyaml import ConfigYaml
from rabbit import server_script

SDK_APP = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
COMPUTE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    if server_script() is None:
        pytest.skip("rabbitmq-server is not installed")
    with running_site(at_sdk_port=True, start_timeout=10) as site:
        yield site


@pytest.fixture(scope="module")
def admin(site: Site) -> User:
    return person(site, unique("admin"), None)


@pytest.fixture(scope="module")
def auth(site: Site, admin: User) -> globus_sdk.AuthClient:
    return client_of(site, admin.token)


def client_of(site: Site, token: str) -> globus_sdk.AuthClient:
    authorizer = globus_sdk.AccessTokenAuthorizer(token)
    return globus_sdk.AuthClient(base_url=site.url, authorizer=authorizer)


@pytest.fixture(scope="module")
def project(auth: globus_sdk.AuthClient, admin: User) -> str:
    made = auth.create_project(
        "Lab", contact_email="lab@example.org", admin_ids=[admin.id]
    )
    assert [p["id"] for p in auth.get_projects()] == [made["project"]["id"]]
    return str(made["project"]["id"])


def double(x: int) -> int:
    return 2 * x


def mepctl(tmp_path: Path, site: Site, admin: User, *words: str) -> Any:
    """mepctl with a mepd.conf whose credentials are the admin's client."""
    credentials = tmp_path / "service.json"
    credentials.write_text(
        json.dumps({"client_id": admin.client_id, "client_secret": admin.client_secret})
    )
    conf = tmp_path / "mepd.conf"
    conf.write_text(f"[service]\nurl = {site.url}\ncredentials = {credentials}\n")
    return subprocess.run(
        [Path(sys.executable).parent / "mepctl", "-c", conf, "configure", *words],
        capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )  # fmt: skip


def configured(tmp_path: Path, site: Site, admin: User, *options: str) -> Path:
    """The config.yaml that mepctl configure has made with these options."""
    done = mepctl(
        tmp_path, site, admin, "--multi-user", "lab", "--config-dir", str(tmp_path), *options
    )
    assert done.returncode == 0, done.stderr
    return tmp_path / "lab/config.yaml"


def registered(config: Path, admin: User) -> FakeMep:
    """An endpoint that registers as mepd does for this config.yaml."""
    text = config.read_text()
    body = registration.body("lab", ConfigYaml(text, config), text, "", None)
    return FakeMep(admin, **body).online()


def ask(user: User, mep: FakeMep) -> list[Any]:
    """The answers of every route that reaches the endpoint."""
    function = user.register(double)
    answers = [user.submit(mep, {function: [payload(1)]})]
    for version, path in (("v2", ""), ("v2", "/status"), ("v3", "/allowed_functions")):
        answers.append(user.call("GET", f"/{version}/endpoints/{mep.id}{path}"))
    return answers


def test_domains(
    tmp_path: Path, site: Site, admin: User, auth: globus_sdk.AuthClient, project: str
) -> None:
    config = configured(
        tmp_path, site, admin,
        *("--auth-policy-project-id", project, "--auth-policy-display-name", "Universities"),
        *("--allowed-domains", "*.edu, example.org", "--excluded-domains", "bad.edu"),
    )  # fmt: skip
    policy_id = yaml.safe_load(config.read_text())["authentication_policy"]
    policy = auth.get_policy(policy_id)["policy"]
    assert policy["display_name"] == "Universities" and policy["high_assurance"] is False
    assert policy["domain_constraints_include"] == ["*.edu", "example.org"]
    assert policy["domain_constraints_exclude"] == ["bad.edu"]
    mep = registered(config, admin)
    for name in ("a@cs.uni.edu", "b@example.org", "c@EXAMPLE.org"):
        user = person(site, f"{os.urandom(4).hex()}{name}", None)
        assert [a.status_code for a in ask(user, mep)] == [200] * 4, name
    for name in ("d@edu", "e@bad.edu", "f@x.example.org", "g", "h@example.org.evil.net"):
        user = person(site, f"{os.urandom(4).hex()}{name}", None)
        for answer in ask(user, mep):
            assert answer.status_code == 403, name
            gare = to_gare(answer.json())
            assert gare is not None
            parameters = gare.authorization_parameters
            assert parameters.session_required_policies == [policy_id]
            assert "*.edu" in str(parameters.session_message)
    outsider = person(site, unique("i").replace("example.org", "evil.net"), None)
    insider = person(site, unique("j"), None)
    assert ask(outsider, mep)[0].status_code == 403
    site.run("identity", "link", "-c", str(site.config), outsider.username, insider.username)
    assert [a.status_code for a in ask(outsider, mep)] == [200] * 4
    assert admin.call("GET", f"/v2/endpoints/{mep.id}").status_code == 200
    again = mepctl(
        tmp_path, site, admin, "--multi-user", "lab", "--config-dir", str(tmp_path),
        "--auth-policy", project,
    )  # fmt: skip
    assert again.returncode == 0 and project in config.read_text()
    answer = admin.call("PUT", f"/v3/endpoints/{mep.id}", {
        "endpoint_name": "lab", "multi_user": True, "authentication_policy": project,
    })  # fmt: skip
    assert answer.status_code == 422, "no policy has this id"
    with pytest.raises(globus_sdk.GlobusAPIError) as raised:
        auth.delete_policy(policy_id)
    assert raised.value.http_status == 409
    mep.stop()


def logged_in(site: Site, user: User, browser: Browser, **session: Any) -> User:
    """The user with the token of an interactive login."""
    app = globus_sdk.NativeAppAuthClient(SDK_APP, base_url=site.url)
    app.oauth2_start_flow(["openid", COMPUTE])
    browser.get(app.oauth2_get_authorize_url(**session))
    if "Password" in browser.page.text:
        browser.log_in(user.username)
    tokens = app.oauth2_exchange_code_for_tokens(browser.allow())
    changed = User.__new__(User)
    changed.__dict__.update(user.__dict__)
    changed.token = tokens.by_resource_server["funcx_service"]["access_token"]
    return changed


def test_recency_and_high_assurance(
    tmp_path: Path, site: Site, admin: User, auth: globus_sdk.AuthClient, project: str
) -> None:
    config = configured(
        tmp_path, site, admin,
        *("--auth-policy-project-id", project, "--allowed-domains", "example.org"),
        *("--auth-timeout", "8"),
    )  # fmt: skip
    policy_id = yaml.safe_load(config.read_text())["authentication_policy"]
    policy = auth.get_policy(policy_id)["policy"]
    assert policy["high_assurance"] is True
    assert policy["authentication_assurance_timeout"] == 8
    mep = registered(config, admin)
    user = person(site, unique("harper"))
    shown = admin.call("GET", f"/v2/endpoints/{mep.id}").json()
    assert shown["authentication_policy"] == policy_id
    assert {a.status_code for a in ask(user, mep)} == {403}, "a token that no login has made"
    browser = Browser()
    fresh = logged_in(site, user, browser)
    logged_at = time.monotonic()
    assert {a.status_code for a in ask(fresh, mep)} == {200}
    assert {a.status_code for a in ask(user, mep)} == {403}, "the login was another session's"
    time.sleep(max(0.0, 8.2 - (time.monotonic() - logged_at)))
    refused = ask(fresh, mep)
    assert {a.status_code for a in refused} == {403}
    gare = to_gare(refused[0].json())
    assert gare is not None
    wanted = gare.authorization_parameters
    app = globus_sdk.NativeAppAuthClient(SDK_APP, base_url=site.url)
    app.oauth2_start_flow(["openid", COMPUTE])
    browser.get(app.oauth2_get_authorize_url(session_required_policies=policy_id))
    assert "Password" in browser.page.text, "the session is too old"
    again = logged_in(
        site, user, browser,
        session_required_policies=wanted.session_required_policies,
        session_message=wanted.session_message,
    )  # fmt: skip
    assert {a.status_code for a in ask(again, mep)} == {200}
    stranger = person(site, unique("x").replace("example.org", "evil.net"))
    elsewhere = Browser()
    elsewhere.get(app.oauth2_get_authorize_url(session_required_policies=policy_id))
    elsewhere.log_in(stranger.username)
    assert "Allow access?" not in elsewhere.page.text
    mep.stop()


def test_policies_are_managed_by_the_projects_administrators(
    site: Site, admin: User, auth: globus_sdk.AuthClient, project: str
) -> None:
    made = auth.create_policy(
        project_id=project, display_name="P", description="D", required_mfa=False
    )["policy"]
    changed = auth.update_policy(made["id"], domain_constraints_include=["*.org"])["policy"]
    assert changed["domain_constraints_include"] == ["*.org"] and changed["display_name"] == "P"
    assert made["id"] in [p["id"] for p in auth.get_policies()]
    other = client_of(site, person(site, unique("other"), None).token)
    for call in (
        lambda: other.get_policy(made["id"]),
        lambda: other.update_policy(made["id"], display_name="mine"),
        lambda: other.delete_policy(made["id"]),
        lambda: other.create_policy(project_id=project, display_name="x", description="y"),
        lambda: other.get_project(project),
        lambda: other.update_project(project, display_name="mine"),
        lambda: other.delete_project(project),
    ):
        with pytest.raises(globus_sdk.GlobusAPIError) as raised:
            call()
        assert raised.value.http_status == 404
    assert not list(other.get_policies()) and not list(other.get_projects())
    for bad in (["*.e du"], ["a@b"], [""], ["*" * 20]):
        with pytest.raises(globus_sdk.GlobusAPIError) as raised:
            auth.update_policy(made["id"], domain_constraints_exclude=bad)
        assert raised.value.http_status == 422
    with pytest.raises(globus_sdk.GlobusAPIError) as raised:
        auth.create_policy(project_id=project, display_name="x", description="", required_mfa=True)
    assert raised.value.http_status == 422
    with pytest.raises(globus_sdk.GlobusAPIError) as raised:
        auth.delete_project(project)
    assert raised.value.http_status == 409
    assert auth.delete_policy(made["id"])["policy"]["id"] == made["id"]


RESEARCHER = """
    import concurrent.futures
    from globus_compute_sdk import Executor

    def jitter_double(task_num):
        import random
        return task_num, task_num * (1.5 + random.random())

    polaris_site_id = {endpoint!r}
    with Executor(
        endpoint_id=polaris_site_id,
        user_endpoint_config={{
            "ACCOUNT_ID": "user_allocation_account_id",
            "NODES_PER_BLOCK": 2,
        }}
    ) as ex:
        futs = [ex.submit(jitter_double, task_num) for task_num in range(100)]
        for fut in concurrent.futures.as_completed(futs):
            print("Result:", fut.result())
"""


class Terminal:
    """A program on a pseudo terminal."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            argv, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, wanted: str | None, seconds: float = 90) -> str:
        """Until a text has come, or (None) until the program has ended."""
        deadline = time.monotonic() + seconds
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < deadline, self.text
            if not select.select([self.fd], [], [], 1)[0]:
                continue
            try:
                self.text += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:  # the other side is closed
                assert wanted is None, self.text
                break
        return self.text

    def close(self) -> int:
        os.close(self.fd)
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(20)


def test_the_sdk_asks_a_person_to_log_in(site: Site, admin: User, tmp_path: Path) -> None:
    """The manual's script, nothing but the environment set; the second run needs no login."""
    if site.port != SDK_PORT:
        pytest.skip(f"port {SDK_PORT} is taken")
    user, mep = person(site, unique("harper")), FakeMep(admin).online()
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(RESEARCHER.format(endpoint=mep.id)))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": site.url,
    }
    terminal = Terminal([sys.executable, str(script)], env)
    terminal.read_until("Enter the resulting Authorization Code here: ")
    found = re.search(r"^(http\S+/v2/oauth2/authorize\?\S+)", terminal.text, re.M)
    assert found is not None, terminal.text
    browser = Browser()
    browser.get(found[1])
    browser.log_in(user.username)
    os.write(terminal.fd, (browser.allow() + "\n").encode())
    text = terminal.read_until(None)
    assert terminal.close() == 0, text
    assert text.count("Result:") == 100
    assert mep.requests[0].effective_identity == user.id
    done = subprocess.run(
        [sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("Result:") == 100, done.stderr
    mep.stop()
