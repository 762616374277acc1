"""A researcher's functions in jobs of a real Slurm, as the mapped account."""

from __future__ import annotations

import os
import pwd
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster, installed
from tests.conftest import is_gone, require, wait_for
from tests.e2e.conftest import make_site, remove
from tests.e2e.site import Site

TEMPLATE = """\
endpoint_setup: {{ endpoint_setup|default() }}
engine:
  type: {{ ENGINE|default("GlobusComputeEngine") }}
{% if MPI|default(false) %}
  mpi_launcher: srun
  max_workers_per_block: 1
{% else %}
  max_workers_per_node: 1
{% endif %}
  max_retries_on_system_failure: {{ RETRIES|default(0) }}
  address:
    type: address_by_interface
    ifname: lo
  strategy:
    type: SimpleStrategy
    max_idletime: 2
  provider:
    type: SlurmProvider
    partition: debug
    exclusive: false
    cores_per_node: {{ 2 if MPI|default(false) else 1 }}
    mem_per_node: 1
    walltime: "00:10:00"
    init_blocks: 0
    min_blocks: 0
    max_blocks: 1
    nodes_per_block: 1
    worker_init: {{ worker_init|default() }}
    launcher:
      type: {{ LAUNCHER|default("SimpleLauncher") }}
idle_heartbeats_soft: {{ SOFT|default(10) }}
idle_heartbeats_hard: 5760
heartbeat_period: 5
"""
WHERE = """
def where():
    import getpass, os
    return getpass.getuser(), os.getuid(), os.environ.get("SLURM_JOB_ID"), os.environ.get("MARK")

def nap(path, seconds):
    import time
    open(path, "a").write("begun\\n")
    time.sleep(seconds)
    return "slept"

def begun(path):
    import time
    while not os.path.exists(path):
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require(installed(), "slurm-wlm and munge")
    made = Cluster()
    try:
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Site]:
    """A site whose endpoint is at the cluster."""
    made = make_site(apart="slurm")
    folder = made.demo.dir / "demo"
    (folder / "user_config_template.yaml.j2").write_text(TEMPLATE)
    (folder / "user_config_schema.json").write_text("{}")
    (folder / "user_environment.yaml").write_text(
        f"SLURM_CONF: {cluster.conf}\nPATH: {made.prefix}/bin:/usr/bin:/bin\n"
    )
    try:
        made.start()
        yield made
    finally:
        remove(made)


def account(site: Site, person: int = 1) -> str:
    return str(site.module.PEOPLE[person - 1].account)


def new_mark(site: Site) -> Path:
    """A file of the first person's that is not there."""
    return Path(pwd.getpwnam(account(site)).pw_dir) / f"begun-{uuid.uuid4()}"


def test_two_people_at_once_each_in_a_job_of_their_own(site: Site, cluster: Cluster) -> None:
    """And squeue(1) is empty after idling."""
    code = WHERE + (
        "import time\n"
        "with executor(worker_init='export MARK=ours') as ex:\n"
        "    print(ex.submit(where).result(100), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    seen = {}
    first = site.begin(code, 1)
    second = site.begin(code, 2)
    try:
        for person, script in ((1, first), (2, second)):
            assert script.stdout is not None
            name, uid, job, mark = eval(script.stdout.readline())
            entry = pwd.getpwnam(account(site, person))
            assert (name, uid, mark) == (entry.pw_name, entry.pw_uid, "ours")
            seen[job] = name
        assert len(seen) == 2
        told = cluster.command("scontrol", "--oneliner", "show", "jobs")
        for job, name in seen.items():
            assert f"JobId={job} " in told and f"UserId={name}(" in told
        wait_for(lambda: cluster.jobs() == {}, 60, "idle blocks to be given back")
    finally:
        for script in (first, second):
            script.communicate("end\n", timeout=60)
            assert script.returncode == 0
    users = {u["user"]: u["state"] for u in site.ctl("list")["ueps"]}
    assert users == {account(site, 1): "RUNNING", account(site, 2): "RUNNING"}


@pytest.mark.parametrize("retries", [0, 1])
def test_a_job_that_is_cancelled_is_an_error_or_a_retry(
    site: Site, cluster: Cluster, retries: int
) -> None:
    wait_for(lambda: cluster.jobs() == {}, 60, "the end of earlier jobs")
    mark = new_mark(site)
    code = WHERE + (
        f"with executor(RETRIES={retries}) as ex:\n"
        f"    future = ex.submit(nap, {str(mark)!r}, 8)\n"
        "    e = future.exception(150)\n"
        "    print(future.result() if e is None else 'Lost' in str(e) or str(e))\n"
        "    print(ex.submit(where).result(100)[0])\n"
    )
    script = site.begin(code)
    wait_for(mark.exists, 60, "the task to begin")
    (job,) = wait_for(cluster.jobs, 30, "the job")
    cluster.command("scancel", job)
    out, _ = script.communicate(timeout=170)
    assert script.returncode == 0
    assert out.splitlines() == ["slept" if retries else "True", account(site)]
    assert mark.read_text().count("begun") == 1 + retries


@pytest.mark.parametrize("way", ["stop", "SIGKILL"])
def test_R1_no_job_is_left_of_a_uep(site: Site, cluster: Cluster, way: str) -> None:
    """One that is stopped cancels its jobs; of one that was killed the next start does."""
    wait_for(lambda: cluster.jobs() == {}, 60, "the end of earlier jobs")
    mark = new_mark(site)
    config = f"MARK={way!r}"
    code = WHERE + (
        f"with executor({config}) as ex:\n"
        f"    print(type(ex.submit(nap, {str(mark)!r}, 300).exception(150)).__name__, flush=True)\n"
    )
    script = site.begin(code)
    wait_for(mark.exists, 60, "the task to begin")
    (job,) = wait_for(cluster.jobs, 30, "the job")
    (uep,) = wait_for(  # it reports in its own time
        lambda: [u for u in site.ctl("list")["ueps"] if u["running"]], 30, "its report"
    )
    if way == "stop":
        site.ctl("kill", uep["id"])
    else:
        os.kill(uep["pid"], signal.SIGKILL)
    wait_for(lambda: is_gone(uep["pid"]), 30, "the end of the user endpoint")
    out, _ = script.communicate(timeout=170)
    assert script.returncode == 0 and out.strip() == "TaskExecutionFailed"
    again = WHERE + f"with executor({config}) as ex:\n    print(ex.submit(where).result(100)[2])\n"
    if way == "stop":
        wait_for(lambda: job not in cluster.jobs(), 30, "the job's end")
    else:
        assert site.research(again).strip() != job
        wait_for(lambda: job not in cluster.jobs(), 30, "the job's end")


def test_mpi_in_a_job(site: Site, cluster: Cluster) -> None:
    """GlobusMPIEngine: the resources of the task are a prefix of srun's."""
    code = (
        "from globus_compute_sdk import ShellFunction\n"
        "with executor(ENGINE='GlobusMPIEngine', MPI=True) as ex:\n"
        "    ex.resource_specification = {'num_nodes': 1, 'num_ranks': 2}\n"
        "    r = ex.submit(ShellFunction('$PARSL_MPI_PREFIX printenv SLURM_PROCID')).result(120)\n"
        "    print(r.returncode, sorted(r.stdout.split()), r.stderr)\n"
    )
    out = site.research(code, timeout=170)
    assert out.startswith("0 ['0', '1']"), out
