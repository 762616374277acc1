"""Configuration that changes while people work: what their next user endpoint is, and isn't."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from tests.conftest import wait_for
from tests.e2e.site import Site

SEEN = (
    "def seen():\n    import os\n    return os.environ.get('SEEN')\n"
    "with executor(x={x!r}) as ex:\n    print(ex.submit(seen).result(60))\n"
)
ENVIRONMENT = "user_environment.yaml"
TEMPLATE = "user_config_template.yaml.j2"
FAILS = (
    "def f():\n    return 1\n"
    "with executor(x={x!r}) as ex:\n    print(ex.submit(f).exception(60))\n"
)


def version(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def endpoints(site: Site) -> dict[str, Any]:
    return {e["name"]: e for e in site.ctl("status")["endpoints"]}


def of(site: Site, path: Path) -> dict[str, Any]:
    """What status says of a file of the demo's endpoint."""
    files = endpoints(site)["demo"]["files"]
    return next((f for f in files if f["path"] == str(path)), {})


def in_force(site: Site, path: Path) -> None:
    wait_for(lambda: of(site, path).get("version") == version(path), 20, site.log()[-2000:])


def listening(site: Site) -> int:
    return site.log().count("endpoint demo listens for start requests")


def test_edits_are_for_the_next_start_and_errors_for_nobody(site: Site) -> None:
    folder = site.demo.dir / "demo"
    environment, template = folder / ENVIRONMENT, folder / TEMPLATE
    good = template.read_text()
    assert site.research(SEEN.format(x="first")) == "None\n"
    (first,) = {u["id"] for u in site.ctl("list")["ueps"]}
    links = listening(site)

    environment.write_text(f"SEEN: new\n{environment.read_text()}")
    in_force(site, environment)
    template.write_text(good.replace("mepd demo", "{{ name_it }}"))
    in_force(site, template)
    out = site.research(FAILS.format(x="second"))
    assert "[exit code: 77; " in out and "'name_it' is undefined" in out
    assert f"changed: {TEMPLATE}; in force from the next start" in site.log()
    template.write_text(good)
    in_force(site, template)
    assert site.research(SEEN.format(x="third")) == "new\n"
    assert site.research(SEEN.format(x="first")) == "None\n"  # the same UEP as before
    assert first in {u["id"] for u in site.ctl("list")["ueps"]}

    before = of(site, environment)
    environment.write_text("SEEN: [no, list]\n")
    error = wait_for(lambda: of(site, environment).get("error"), 20, "the error")
    assert "SEEN: values must not be nested" in error
    assert {**of(site, environment), "error": ""} == before
    assert site.research(SEEN.format(x="fourth")) == "new\n"

    # The service was told the template twice, and the endpoint never left its queue for it
    site.logged("endpoint demo is registered as it is now")
    assert listening(site) == links and endpoints(site)["demo"]["online"]


def test_an_endpoint_of_conf_d_comes_and_drains(site: Site) -> None:
    folder = site.demo.dir / "second"
    shutil.copytree(site.demo.dir / "demo", folder)
    (folder / "endpoint.json").unlink()
    (folder / ENVIRONMENT).write_text("SEEN: second\n")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("/demo/example", "/second/example"))
    pid, demo = site.pid, endpoints(site)["demo"]
    (site.demo.dir / "conf.d").mkdir()
    site.demo.conf.write_text(site.demo.conf.read_text() + "\n[include]\nfiles = conf.d/*.conf\n")
    conf = site.demo.dir / "conf.d/second.conf"
    conf.write_text(f"[endpoint:second]\ndirectory = {folder}\n")
    wait_for(lambda: endpoints(site).get("second", {}).get("online"), 30, site.log()[-2000:])
    ident = endpoints(site)["second"]["id"]
    mine = SEEN.format(x="there").replace("executor(", f"executor2({ident!r}, ")
    head = (
        "def executor2(ident, **config):\n    E['MEPD_ENDPOINT_ID'] = ident\n"
        "    return executor(**config)\n"
    )
    assert site.research(head + mine) == "second\n"
    (uep,) = [u for u in site.ctl("list")["ueps"] if u["endpoint"] == "second"]

    conf.unlink()
    wait_for(lambda: endpoints(site)["second"]["draining"], 20, "draining")
    wait_for(lambda: not endpoints(site)["second"]["online"], 20, "offline")
    assert uep["id"] in {u["id"] for u in site.ctl("list")["ueps"]}
    assert site.research(head + mine) == "second\n"  # the UEP goes on with its work
    site.ctl("kill", uep["id"])
    wait_for(lambda: "second" not in endpoints(site), 20, "its end")
    site.logged("endpoint second is gone")
    assert site.pid == pid and endpoints(site)["demo"]["files"] == demo["files"]
    assert endpoints(site)["demo"]["online"]
