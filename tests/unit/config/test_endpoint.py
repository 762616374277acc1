"""An endpoint's folder: what is read, and what the snapshot says."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd.config import endpoint
from mepd.config.settings import EndpointSnapshot
from mepd.errors import ConfigError
from mepd.posix import descriptors

UUID = "6D0BA55F-de15-4af2-827d-05c50c338aa7"
RULES = [
    {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example.org", "output": "{0}"}],
    }
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "map.json").write_text(json.dumps(RULES))
    (tmp_path / "user_config_template.yaml.j2").write_text("engine: {type: ThreadPoolEngine}\n")
    (tmp_path / "config.yaml").write_text("identity_mapping_config_path: map.json\n")
    return tmp_path


def snapshot(folder: Path) -> EndpointSnapshot:
    return endpoint.parse_files("gpu", folder, endpoint.read_files(folder))


def with_config(folder: Path, text: str) -> EndpointSnapshot:
    (folder / "config.yaml").write_text(text)
    return snapshot(folder)


def fault(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        with_config(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def test_the_least_folder(folder: Path) -> None:
    s = snapshot(folder)
    assert (s.name, s.directory, s.endpoint_id, s.schema) == ("gpu", folder, None, None)
    assert s.mappings == tuple(RULES)
    assert s.mapping_path == folder / "map.json"
    assert s.template == "engine: {type: ThreadPoolEngine}\n"
    assert s.uep_command == ("mepd-uep", "start", "{name}", "--die-with-parent")
    assert [w.partition(",")[0] for w in s.warnings] == ["identity mapping"]  # its bare dot


def test_all_files(folder: Path) -> None:
    (folder / "user_config_schema.json").write_text('{"type": "object"}')
    (folder / "user_environment.yaml").write_text("PATH: /site/bin\nN: 3\nEMPTY:\nB: true\n")
    (folder / "endpoint.json").write_text(json.dumps({"endpoint_id": UUID}))
    (folder / "common.yaml.j2").write_text("common")
    (folder / "queues.yaml").write_text("queues")
    s = snapshot(folder)
    assert s.endpoint_id == UUID.lower()
    assert s.schema == {"type": "object"}
    assert s.environment == {"PATH": "/site/bin", "N": "3", "B": "True"}
    assert s.includes == {"common.yaml.j2": "common", "queues.yaml": "queues"}


def test_every_key(folder: Path) -> None:
    (folder / "own.j2").write_text("own")
    (folder / "own.json").write_text("{}")
    s = with_config(
        folder,
        f"""
multi_user: true
display_name: The GPUs
identity_mapping_config_path: {folder}/map.json
user_config_template_path: own.j2
user_config_schema_path: ./own.json
amqp_port: 443
heartbeat_period: 5
mu_child_ep_grace_period_s: 7.5
allowed_functions: [{UUID}]
authentication_policy: {UUID}
subscription_id: {UUID}
admins: [{UUID}]
public: true
high_assurance: false
uep_command: globus-compute-endpoint
max_ueps_per_user: 3
pam: {{enable: true, service_name: mine}}
debug: true
email: root@example.org
detach_endpoint: true
""",
    )
    assert (s.template_name, s.template, s.schema) == ("own.j2", "own", {})
    assert (s.amqp_port, s.heartbeat_period, s.grace_period) == (443, 5.0, 7.5)
    assert s.allowed_functions == (UUID.lower(),)
    assert s.uep_command == ("globus-compute-endpoint", "start", "{name}", "--die-with-parent")
    assert s.max_ueps_per_user == 3
    assert (s.pam_enable, s.pam_service) == (True, "mine")
    ignored = [w.split()[1] for w in s.warnings if w.startswith("config.yaml")]
    assert ignored == ["debug", "email", "detach_endpoint"]


def test_registration_has_the_form_of_the_service(folder: Path) -> None:
    text = f"identity_mapping_config_path: map.json\nsubscription_id: {UUID}\npublic: false\n"
    body = with_config(folder, text).registration
    metadata = body.pop("metadata")
    assert body == {
        "endpoint_name": "gpu",
        "multi_user": True,
        "subscription_uuid": UUID.lower(),
        "public": False,
    }
    assert metadata["endpoint_config"] == text
    assert metadata["user_config_template"] == "engine: {type: ThreadPoolEngine}\n"
    assert {"endpoint_version", "hostname", "local_user"} <= metadata.keys()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("", (False, "globus-compute-endpoint")),
        ("pam: null", (False, "globus-compute-endpoint")),
        ("pam: {enable: true}", (True, "globus-compute-endpoint")),
        ("pam: {enable: false, service_name: a}", (False, "a")),
        ("pam: {service_name: a}", (True, "a")),
        ("pam: {}", (True, "globus-compute-endpoint")),
    ],
)
def test_pam_block(folder: Path, block: str, expected: tuple[bool, str]) -> None:
    s = with_config(folder, block + "\n")
    assert (s.pam_enable, s.pam_service) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("multi_user: true\nengine: {type: x}\n", "config.yaml:2: engine: a multi-user endpoint"),
        ("\n\ndisplay_nam: x\n", "config.yaml:3: display_nam: unknown key; the nearest known is"
         " 'display_name'"),
        ("multi_user: false\n", "config.yaml:1: multi_user: must be true"),
        ("amqp_port: 70000\n", "config.yaml:1: amqp_port: must be from 0 to 65535"),
        ("amqp_port: true\n", "config.yaml:1: amqp_port: must be a whole number"),
        ("heartbeat_period: 0\n", "config.yaml:1: heartbeat_period: must be from 0.1"),
        ("heartbeat_period: .nan\n", "config.yaml:1: heartbeat_period: must be from 0.1"),
        ("public: 'yes'\n", "config.yaml:1: public: must be true or false"),
        ("allowed_functions: [a]\n", "config.yaml:1: allowed_functions: 'a' is no UUID"),
        ("allowed_functions: a\n", "config.yaml:1: allowed_functions: must be a list"),
        ("uep_command: [x, y]\n", "config.yaml:1: uep_command: must pass {name}"),
        ("uep_command: []\n", "config.yaml:1: uep_command: is empty"),
        ("uep_command: bin/x\n", "config.yaml:1: uep_command: must be a name or an absolute path"),
        ("pam: {enabled: true}\n", "config.yaml:1: pam: unknown key 'enabled'"),
        ("pam: {service_name: ../x}\n", "config.yaml:1: pam: service_name must be the name"),
        ("identity_mapping_config_path: /none/map.json\n", "identity_mapping_config_path:"
         " /none/map.json does not exist"),
        ("a: [\n", "config.yaml:2: "),
    ],
)  # fmt: skip
def test_errors_of_config_yaml(folder: Path, text: str, message: str) -> None:
    assert message in fault(folder, text)


def test_no_template(folder: Path) -> None:
    (folder / "user_config_template.yaml.j2").unlink()
    with pytest.raises(ConfigError, match=r"user_config_template.yaml.j2: is missing"):
        snapshot(folder)
    (folder / "user_config_template.yaml").write_text("plain")
    assert snapshot(folder).template_name == "user_config_template.yaml"


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("{}", "map.json: is no list"),
        ("[\n1\n,]", "map.json:3: not JSON"),
        ('[{"DATA_TYPE": "x#1.0.0"}]', "map.json: document 1: DATA_TYPE 'x#1.0.0' is unknown"),
        ('[{"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["bin/x"]}]',
         "map.json: document 1: command must be an absolute path"),
        ('[{"DATA_TYPE": "external_identity_mapping#1.0.0", "command": "x"}]',
         "map.json: document 1: command must be a list"),
        ('[{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [{"source": "a"}]}]',
         "map.json: document 1, rule 1: match is missing"),
        ('[{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [{"source": "a",'
         ' "match": "b", "output": "c", "ignore_case": "false"}]}]',
         "map.json: document 1, rule 1: ignore_case must be true or false"),
        ('[{"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": [{"source": "a",'
         ' "match": "b", "output": "c", "literal": 1}]}]',
         "map.json: document 1, rule 1: literal must be true or false"),
        ("[" * 100_000, "map.json: not JSON: nested too deeply"),
    ],
)  # fmt: skip
def test_errors_of_the_mapping_file(folder: Path, mapping: str, message: str) -> None:
    (folder / "map.json").write_text(mapping)
    with pytest.raises(ConfigError) as caught:
        snapshot(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("user_config_schema.json", "[]", "is no JSON schema object"),
        ("user_config_schema.json", "{\n,", "user_config_schema.json:2: not JSON"),
        ("user_config_schema.json", '{"maximum": NaN}', "not JSON: NaN is not JSON"),
        ("user_environment.yaml", "B: 1\nA: [1]\n", ".yaml:2: A: values must not be nested"),
        ("user_environment.yaml", "A=B: 1\n", ".yaml:1: 'A=B' is no name of a variable"),
        ("user_environment.yaml", '{B: 1,\nA: "x\\0y"}\n', ".yaml:2: A: holds a NUL"),
        ("user_environment.yaml", "A: 1\nNO: 1\n", ".yaml:2: the key 'NO' is no text"),
        ("user_environment.yaml", "A: 1\nA: 2\n", ".yaml:2: 'A' stands in line 1, too"),
        ("config.yaml", "public: true\npublic: false\n", ".yaml:2: 'public' stands in line 1"),
        ("config.yaml", "public: true\n1: x\n", ".yaml:2: the key '1' is no text"),
        ("endpoint.json", '{"endpoint_id": "x"}', "endpoint_id is missing or no UUID"),
        ("endpoint.json", "[]", "endpoint_id is missing or no UUID"),
    ],
)
def test_errors_of_the_other_files(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        snapshot(folder)
    assert message in str(caught.value)


_YAML = st.sampled_from(
    ["a", "multi_user", "pam", "uep_command", "amqp_port", "admins", ": ", "\n", "\n  ", "- ", "[",
     "]", "{", "}", "&x ", "*x", "!!binary ", "!!set ", "<<", "true", "null", "1e999", ".nan",
     "2026-01-01", "0x7f", "'", '"', "~", "? ", "| ", "#", "---", "%", "engine", "/etc/passwd"]
) | st.text(max_size=6)  # fmt: skip


@given(
    st.lists(_YAML, max_size=25).map("".join),
    st.sampled_from(["config.yaml", "user_environment.yaml", "user_config_schema.json",
                     "endpoint.json", "map.json"]),
)  # fmt: skip
def test_whatever_is_in_a_file(text: str, name: str) -> None:
    """A snapshot or a ConfigError; and a snapshot's registration can be sent."""
    files = {"config.yaml": "identity_mapping_config_path: map.json", "map.json": json.dumps(RULES),
             "user_config_template.yaml.j2": "", name: text}  # fmt: skip
    try:
        snapshot = endpoint.parse_files("a", Path("/x"), files)
    except ConfigError:
        return
    json.dumps(snapshot.registration, allow_nan=False)


class TestReading:
    def test_symlinks_are_followed(self, folder: Path, tmp_path: Path) -> None:
        (folder / "real.yaml.txt").write_text("A: b\n")
        (folder / "user_environment.yaml").symlink_to(folder / "real.yaml.txt")
        assert snapshot(folder).environment == {"A": "b"}

    def test_a_folder_in_a_files_place_is_named_and_leaves_nothing_open(self, folder: Path) -> None:
        path = folder / "user_environment.yaml"
        path.mkdir()
        gc.collect()  # what earlier tests left open is not to be closed meanwhile
        before = descriptors.open_descriptors()
        with pytest.raises(ConfigError, match="user_environment.yaml: is no regular file"):
            snapshot(folder)
        assert descriptors.open_descriptors() == before

    @pytest.mark.parametrize(
        "line",
        [
            'identity_mapping_config_path: "a\\0b"',
            'audit_log_path: "/a\\0b"',
            'uep_command: ["a\\0b", "{name}"]',
        ],
    )
    def test_what_no_path_can_hold(self, folder: Path, line: str) -> None:
        (folder / "config.yaml").write_text(f"{line}\n")
        with pytest.raises(ConfigError, match="config.yaml:1: .*(is no path|no command can)"):
            snapshot(folder)

    @pytest.mark.parametrize("word", ["\\u0000", "\\ud800"])
    def test_what_no_command_can_hold(self, folder: Path, word: str) -> None:
        kind = "external_identity_mapping#1.0.0"
        (folder / "config.yaml").write_text("identity_mapping_config_path: map.json\n")
        (folder / "map.json").write_text(f'[{{"DATA_TYPE": "{kind}", "command": ["/{word}"]}}]')
        with pytest.raises(ConfigError, match="map.json: document 1: command must be"):
            snapshot(folder)

    def test_a_fifo_does_not_block(self, folder: Path) -> None:
        os.mkfifo(folder / "user_environment.yaml")
        with pytest.raises(ConfigError, match="is no regular file"):
            snapshot(folder)

    def test_a_device(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="is no regular file"):
            with_config(folder, "identity_mapping_config_path: /dev/zero\n")

    def test_too_large(self, folder: Path) -> None:
        (folder / "user_config_schema.json").write_bytes(b" " * (1024 * 1024 + 1))
        with pytest.raises(ConfigError, match="larger than 1048576 bytes"):
            snapshot(folder)

    def test_too_large_together(self, folder: Path) -> None:
        for n in range(3):
            (folder / f"t{n}.j2").write_bytes(b" " * (1024 * 1024))
        with pytest.raises(ConfigError, match="together"):
            snapshot(folder)

    def test_no_folder_and_no_config(self, folder: Path) -> None:
        with pytest.raises(ConfigError, match="there is no such folder"):
            endpoint.read_files(folder / "none")
        (folder / "config.yaml").unlink()
        with pytest.raises(ConfigError, match=r"config.yaml: is missing"):
            endpoint.read_files(folder)

    def test_the_same_texts_parse_anywhere(self, folder: Path) -> None:
        """The watcher parses what the master read, without knowing the folder."""
        files = endpoint.read_files(folder)
        there: dict[str, Any] = json.loads(json.dumps(files))
        assert endpoint.parse_files("gpu", Path(), there).mappings == tuple(RULES)
