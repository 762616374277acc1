"""A new endpoint's folder has the manual's files, defaults and modes, and works as it is."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import yaml

from mepd.config import endpoint, write
from mepd.errors import ConfigError
from mepd.launch import render
from mepd.config import uepconfig


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_five_files_with_their_modes(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        made = write.configure(tmp_path / "new/.globus_compute", "mep_debug")
    finally:
        os.umask(old)
    folder = tmp_path / "new/.globus_compute/mep_debug"
    assert mode(folder) == 0o700
    assert {p.name: mode(p) for p in folder.iterdir()} == {
        "config.yaml": 0o600,
        "example_identity_mapping_config.json": 0o600,
        "user_config_template.yaml.j2": 0o644,
        "user_config_schema.json": 0o600,
        "user_environment.yaml": 0o600,
    }
    assert yaml.safe_load(made.config.read_text()) == {
        "amqp_port": 443,
        "display_name": None,
        "identity_mapping_config_path": str(made.mapping),
        "multi_user": True,
    }
    assert made.config.read_text().startswith("amqp_port: 443\ndisplay_name: null\n")


def test_the_example_mapping_is_the_manuals(tmp_path: Path) -> None:
    documents = json.loads(write.configure(tmp_path, "a").mapping.read_text())
    assert [d["DATA_TYPE"] for d in documents] == [
        "external_identity_mapping#1.0.0",
        "expression_identity_mapping#1.0.0",
    ]
    assert documents[0]["command"] == ["/bin/false", "--some", "flag", "-a", "-b", "-c"]
    assert documents[1]["mappings"] == [
        {"source": "{username}", "match": "(.*)@example.com", "output": "{0}"}
    ]


def test_what_is_written_parses_with_one_warning(tmp_path: Path) -> None:
    folder = write.configure(tmp_path, "a").config.parent
    snapshot = endpoint.parse_files("a", folder, endpoint.read_files(folder))
    (warning,) = snapshot.warnings  # the manual's own rule has a bare dot
    assert "example.com" in warning and "unescaped" in warning
    assert snapshot.environment == {}
    assert snapshot.schema is not None
    assert set(snapshot.schema["properties"]) == {"endpoint_setup", "worker_init"}
    assert snapshot.schema["additionalProperties"] is True
    assert "idle_heartbeats_soft: 10\nidle_heartbeats_hard: 5760\n" in snapshot.template


@pytest.mark.parametrize(
    ("options", "setup"),
    [({}, None), ({"endpoint_setup": 'echo "a\nb"', "worker_init": "true"}, 'echo "a\nb"')],
)
def test_the_template_gives_a_user_endpoint_its_configuration(
    tmp_path: Path, options: dict[str, str], setup: str | None
) -> None:
    folder = write.configure(tmp_path, "a").config.parent
    snapshot = endpoint.parse_files("a", folder, endpoint.read_files(folder))
    config = uepconfig.parse(render.render(snapshot, options, {}, {})[0])
    spec = config.engine.parsl
    assert spec is not None and spec.type == "GlobusComputeEngine" and spec.provider is not None
    assert spec.provider.type == "LocalProvider" and spec.address == "127.0.0.1"
    assert spec.provider.arguments.get("worker_init") == options.get("worker_init")
    assert config.endpoint_setup == setup
    assert (config.idle_soft, config.idle_hard) == (10, 5760)


@pytest.mark.parametrize("existing", ["folder", "file", "dangling link"])
def test_a_second_time_changes_nothing(tmp_path: Path, existing: str) -> None:
    target = tmp_path / "a"
    if existing == "folder":
        target.mkdir()
    elif existing == "file":
        target.write_text("mine")
    else:
        target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        write.configure(tmp_path, "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert not target.is_file() or target.read_text() == "mine"


def test_a_failure_half_way_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        write.configure(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "", ".hidden", "a b", "a/b", "../a", "/a", "a\\b", "a'b", 'a"b', "a\n", "a\tb", "-a",
        "x" * 129, "6d0ba55f-de15-4af2-827d-05c50c338aa7", "a;b", "[a]", "a%b",
    ],
)  # fmt: skip
def test_refused_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="Invalid endpoint name: "):
        write.configure(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["prod_gpu_large", "a", "0.9", "x" * 128, "a@b+c-d"])
def test_accepted_names(tmp_path: Path, name: str) -> None:
    assert write.configure(tmp_path, name).config.parent.name == name
