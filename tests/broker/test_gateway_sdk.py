"""A stock globus_compute_sdk Client and Executor against the gateway."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_fixtures import SDK_PORT, FakeMep, Site, User, running_site, unique
from globus_compute_sdk import Executor
from globus_compute_sdk.errors import TaskExecutionFailed
from globus_compute_sdk.sdk.executor import _RESULT_WATCHERS
from globus_sdk import GlobusAPIError
from rabbit import server_script

from mepd import sdk
from tests.conftest import require


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    require(server_script() is not None, "rabbitmq-server")
    with running_site(at_sdk_port=True, start_timeout=10) as site:
        yield site
        for watcher in list(_RESULT_WATCHERS.values()):
            watcher.shutdown()


@pytest.fixture(scope="module")
def admin(site: Site) -> User:
    return User(site, unique("admin"))


@pytest.fixture(scope="module")
def harper(site: Site) -> User:
    return User(site, unique("harper"), "--email", "harper@example.org", "--name", "Harper")


@pytest.fixture
def mep(admin: User) -> Iterator[FakeMep]:
    mep = FakeMep(admin).online()
    yield mep
    mep.stop()


def double(x: int) -> int:
    return 2 * x


def fails() -> None:
    raise ValueError("on purpose")


def test_an_executor_gets_results(site: Site, harper: User, mep: FakeMep) -> None:
    client = sdk.client(site.url, client_id=harper.client_id, client_secret=harper.client_secret)
    config = {"worker_init": "true"}
    with Executor(mep.id, client=client, user_endpoint_config=config) as executor:
        futures = [executor.submit(double, i) for i in range(20)]
        failing = executor.submit(fails)
        assert [f.result(60) for f in futures] == [2 * i for i in range(20)]
        with pytest.raises(TaskExecutionFailed, match="on purpose"):
            failing.result(60)
        tasks = client.get_batch_result([f.task_id for f in futures])
        reloaded = list(executor.reload_tasks())
    assert [tasks[str(f.task_id)]["result"] for f in futures] == [2 * i for i in range(20)]
    assert len(reloaded) == 21 and all(f.done() for f in reloaded)
    (request,) = mep.requests
    assert request.user_opts == config
    assert request.effective_identity == harper.id and request.username == harper.username
    (identity,) = request.identity_set
    assert identity["id"] == identity["sub"] == harper.id
    assert identity["email"] == "harper@example.org"
    assert request.user_runtime["python_version"] == sys.version


def test_a_client_with_a_token(site: Site, harper: User, mep: FakeMep) -> None:
    client = sdk.client(site.url, token=harper.token)
    function = client.register_function(double)
    assert client.get_function(function)["function_name"] == "double"
    task = client.run(21, endpoint_id=mep.id, function_id=function)
    with Executor(mep.id, client=client) as executor:
        future = executor.submit_to_registered_function(function, args=(4,))
        assert future.result(60) == 8
    assert client.get_task(task)["result"] == 42
    assert client.get_endpoint_status(mep.id)["status"] == "online"
    assert client.get_endpoint_metadata(mep.id)["uuid"] == mep.id
    assert mep.id not in [e["uuid"] for e in client.get_endpoints()]
    assert client.get_allowed_functions(mep.id)["restricted"] is False
    client.delete_function(function)
    with pytest.raises(GlobusAPIError) as raised:
        client.get_function(function)
    assert raised.value.http_status == 404


def test_source_code_runs(site: Site, harper: User, mep: FakeMep) -> None:
    client = sdk.client(site.url, token=harper.token)
    function = client.register_source_code("def triple(x):\n    return 3 * x\n", "triple")
    with Executor(mep.id, client=client) as executor:
        assert executor.submit_to_registered_function(function, args=(4,)).result(60) == 12


def test_a_start_failure_has_the_manuals_form(site: Site, harper: User, mep: FakeMep) -> None:
    text = (
        "Unable to start user endpoint process for harper [exit code: 77; (ValueError)"
        " 'parent_config' is a reserved word and cannot be passed in via user config]"
    )
    mep.react = lambda _request: text
    client = sdk.client(site.url, token=harper.token)
    with Executor(mep.id, client=client, user_endpoint_config={"parent_config": 1}) as executor:
        future = executor.submit(double, 1)
        with pytest.raises(GlobusAPIError) as raised:
            future.result(60)
    error = raised.value
    assert (error.http_status, error.code) == (422, "SEMANTICALLY_INVALID")
    assert error.message == f"Request payload failed validation: {text}"
    assert error.args[:2] == ("POST", f"{site.url}/v3/endpoints/{mep.id}/submit")


RESEARCHER = """
    from globus_compute_sdk import Client, Executor
    from globus_compute_sdk.sdk.auth.globus_app import get_globus_app
    from globus_compute_sdk.sdk.auth.whoami import print_whoami_info

    def double(x):
        return 2 * x

    with Executor(endpoint_id={endpoint!r}) as executor:
        print(sum(f.result(60) for f in [executor.submit(double, i) for i in range(10)]))
    print_whoami_info(get_globus_app(), linked_identities=True)
"""


def test_the_researchers_script_as_it_stands(
    site: Site, harper: User, mep: FakeMep, tmp_path: Path
) -> None:
    """Nothing but the environment says where the service is."""
    if site.port != SDK_PORT:
        pytest.skip(f"port {SDK_PORT} is taken")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(RESEARCHER.format(endpoint=mep.id)))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": site.url,
        "GLOBUS_COMPUTE_CLIENT_ID": harper.client_id,
        "GLOBUS_COMPUTE_CLIENT_SECRET": harper.client_secret,
    }
    done = subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "90"
    assert "Harper" in done.stdout and "harper@example.org" in done.stdout
