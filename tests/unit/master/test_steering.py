"""Names of endpoints and programs, and what is refused before anything happens."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.errors import ConfigError, ControlError
from mepd.master.asking import Caller
from mepd.master.steering import Steering
from mepd.posix.peer import Peer

ROOT = Caller(Peer(1, 0, 0), True)


class Config:
    """Endpoints gpu (served) and cpu (configured only), programs broker and gpu."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.started: list[tuple[str, Path]] = []
        gpu = SimpleNamespace(draining=False, state="online")
        self.endpoints: dict[str, Any] = {"gpu": gpu}
        section = SimpleNamespace(name="broker")
        state = SimpleNamespace(value="RUNNING")
        program = SimpleNamespace(process=1, section=section, state=state)
        self.programs = SimpleNamespace(find={"broker": program, "gpu": program}.get)

    def knows(self, name: str) -> bool:
        return name in ("gpu", "cpu")

    def hold(self, name: str) -> None:
        self.held.append(name)

    def resume(self, name: str) -> None:
        raise ConfigError("is missing", "/e/config.yaml")

    def start_endpoint(self, name: str, directory: Path) -> None:
        self.started.append((name, directory))
        self.endpoints[name] = SimpleNamespace(draining=False, state="offline")


def ask(config: Config, verb: str, name: str, **more: Any) -> Any:
    commander: Any = SimpleNamespace(config=config)
    return Steering(commander).table()[verb].handler(ROOT, {"name": name, **more})


@pytest.mark.parametrize(
    ("verb", "name", "code", "said"),
    [
        ("drain", "gpu", os.EX_USAGE, "say endpoint:gpu or program:gpu"),
        ("drain", "program:gpu", os.EX_USAGE, "takes no requests: stop it"),
        ("stop", "nosuch", os.EX_UNAVAILABLE, "no endpoint or program is called 'nosuch'"),
        ("stop", "endpoint:broker", os.EX_UNAVAILABLE, "no endpoint or program is called"),
        ("restart", "cpu", os.EX_UNAVAILABLE, "endpoint cpu is not served"),
        ("start", "broker", os.EX_UNAVAILABLE, "program broker is RUNNING"),
        ("start", "endpoint:gpu", os.EX_UNAVAILABLE, "endpoint gpu is served already"),
        ("start", "cpu", os.EX_CONFIG, "/e/config.yaml: is missing"),
        ("start", "program:nosuch", os.EX_UNAVAILABLE, "is called 'program:nosuch'"),
        ("stop", "", os.EX_USAGE, "name is missing"),
    ],
)
def test_refused(verb: str, name: str, code: int, said: str) -> None:
    config = Config()
    with pytest.raises(ControlError, match=said) as caught:
        ask(config, verb, name, **({"directory": "/d/x"} if verb == "start" else {}))
    assert caught.value.exit_code == code and not config.held and not config.started


def test_a_kind_makes_a_name_plain() -> None:
    config = Config()
    assert ask(config, "drain", "endpoint:gpu")["kind"] == "endpoint"
    assert config.held == ["gpu"]


def test_a_folder_that_is_not_configured() -> None:
    config = Config()
    answer = ask(config, "start", "new", directory="/d/new", named=False)
    assert config.started == [("new", Path("/d/new"))] and answer["state"] == "offline"
    with pytest.raises(ControlError, match="absolute"):
        ask(config, "start", "other", directory="d/other")


def test_a_folder_that_is_named_comes_before_the_configured_one() -> None:
    config = Config()
    ask(config, "start", "cpu", directory="/d/cpu", named=True)
    assert config.started == [("cpu", Path("/d/cpu"))]
