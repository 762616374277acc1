"""Endpoints that are held, taken up again, and gone; with a host that notes what it is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mepd.config import folder
from mepd.config.settings import EndpointSection
from mepd.errors import ConfigError
from mepd.master.endpointset import EndpointSet
from mepd.master.reconfigure import EndpointPlan


def make(directory: Path) -> Path:
    directory.mkdir()
    (directory / "config.yaml").write_text("public: true\n")
    (directory / "user_config_template.yaml.j2").write_text("n: 1\n")
    return directory


class Rig:
    """One endpoint, gpu; ``used`` says whether it has user endpoints."""

    def __init__(self, tmp_path: Path) -> None:
        self.calls: list[tuple[str, str]] = []
        self.used = False
        self.directory = make(tmp_path / "gpu")

        def note(word: str) -> Any:
            return lambda endpoint: self.calls.append((word, endpoint.name))

        host: Any = SimpleNamespace(
            serve=note("serve"), drain=note("drain"), drop=note("drop"),
            in_use=lambda endpoint: self.used,
        )  # fmt: skip
        reloader: Any = SimpleNamespace(
            reread=note("reread"), examine=note("examine"), drop=note("forget")
        )
        snapshot = folder.load("gpu", self.directory, False)
        self.set = EndpointSet(host, reloader, [snapshot], False)
        self.gpu = self.set.by_name["gpu"]

    def said(self) -> list[str]:
        """What was done with gpu since this was asked the last time."""
        assert {name for _, name in self.calls} <= {"gpu"}
        words = [word for word, _ in self.calls]
        self.calls.clear()
        return words


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_configured_again_while_it_still_drains(rig: Rig) -> None:
    rig.used = True
    rig.set.apply(EndpointPlan(removed=("gpu",)), [])
    assert rig.said() == ["forget", "drain"] and rig.set.serving() == []
    rig.set.apply(EndpointPlan(resumed=("gpu",)), [])
    assert rig.said() == ["reread", "serve"] and rig.set.serving() == [rig.gpu]
    rig.used = False
    assert not rig.set.forget_drained("gpu") and rig.set.by_name == {"gpu": rig.gpu}


def test_held_while_it_drains_it_stays_as_stopped_and_is_stopped_once(rig: Rig) -> None:
    rig.used = True
    rig.set.apply(EndpointPlan(removed=("gpu",)), [])
    rig.said()
    rig.set.hold("gpu")
    assert rig.gpu.state == "draining" and rig.said() == []
    rig.used = False
    rig.set.hold("gpu")
    assert rig.gpu.state == "stopped" and rig.said() == ["drop"]
    rig.set.hold("gpu")
    assert rig.gpu.state == "stopped" and rig.said() == []
    assert rig.set.by_name == {"gpu": rig.gpu}


def test_started_by_an_administrator_though_it_is_gone(rig: Rig) -> None:
    rig.set.apply(EndpointPlan(removed=("gpu",)), [])
    assert rig.said() == ["forget", "drain", "drop"] and not rig.set.by_name
    rig.set.resume("gpu", EndpointSection("gpu", rig.directory))
    assert rig.said() == ["serve", "examine"]
    added = rig.set.by_name["gpu"]
    assert added is not rig.gpu and not added.by_hand and rig.set.serving() == [added]


def test_started_by_an_administrator_where_its_folder_is_another_now(
    rig: Rig, tmp_path: Path
) -> None:
    other = make(tmp_path / "other")
    rig.set.hold("gpu")
    rig.said()
    rig.set.resume("gpu", EndpointSection("gpu", other))
    assert rig.said() == ["forget", "drop", "serve", "examine"]
    assert rig.set.by_name["gpu"].snapshot.directory == other


def test_what_cannot_be_loaded_leaves_it_stopped(rig: Rig) -> None:
    rig.set.hold("gpu")
    rig.said()
    (rig.directory / "config.yaml").write_text("public: [\n")
    with pytest.raises(ConfigError):
        rig.set.resume("gpu", None)
    assert rig.gpu.state == "stopped" and rig.said() == []
