"""A new endpoint's folder: the five files with the manual's names and defaults."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from mepd.config.names import check_name

_GUIDE = "https://docs.globus.org/globus-connect-server/v5.4/identity-mapping-guide/"

MAPPING = [
    {
        "comment": f"For more examples, see: {_GUIDE}",
        "DATA_TYPE": "external_identity_mapping#1.0.0",
        "command": ["/bin/false", "--some", "flag", "-a", "-b", "-c"],
    },
    {
        "comment": f"For more examples, see: {_GUIDE}",
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [{"source": "{username}", "match": "(.*)@example.com", "output": "{0}"}],
    },
]

TEMPLATE = """\
{#- The configuration of every user endpoint of this endpoint, as a Jinja template.

    What a user passes as user_endpoint_config is there by name, already quoted for
    YAML: write {{ NAME }}, never "{{ NAME }}". user_config_schema.json says what a user
    may pass. Also there: user_runtime, parent_config and mapped_identity. -#}
# Shell commands that run as the user before the user endpoint takes its first task.
endpoint_setup: {{ endpoint_setup|default() }}

engine:
  type: GlobusComputeEngine
  max_workers_per_node: 1

  # Where workers find this machine. The nodes of a cluster need an address that they can
  # reach, for instance {type: address_by_interface, ifname: eth0}.
  address: 127.0.0.1

  # Workers on this machine. See mepd-uep(8) for SlurmProvider and others, and for
  # ProcessPoolEngine, which needs no provider and starts faster.
  provider:
    type: LocalProvider
    init_blocks: 1
    min_blocks: 0
    max_blocks: 1

    # Shell commands that run before the workers start.
    worker_init: {{ worker_init|default() }}

# In heartbeats of 30 s: stop when no task was there for 10 (5 minutes), and when nothing
# has moved for 5760 (48 hours), even with tasks outstanding.
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
"""

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "endpoint_setup": {"type": "string"},
        "worker_init": {"type": "string"},
    },
    "additionalProperties": True,
}

ENVIRONMENT = """\
# Environment variables of the user endpoints: names and values, nothing nested.
# HOME, USER, LOGNAME and SHELL are the account's and cannot be set here.
#
#   PATH: /site/bin:/usr/local/bin:/usr/bin:/bin
#   SITE_SPECIFIC_VAR: a site specific value
"""


@dataclass(frozen=True)
class Written:
    """The paths of a new endpoint's five files."""

    config: Path
    mapping: Path
    template: Path
    schema: Path
    environment: Path


def _scalar(text: str) -> str:
    """A YAML scalar: plain, as the manual shows it, where that is the same text."""
    return text if re.fullmatch(r"/[A-Za-z0-9_./+-]*", text) else json.dumps(text)


def configure(directory: Path, name: str) -> Written:
    """Make ``directory/name`` with its five files; all of it or nothing.

    Folder 0700, template 0644, the rest 0600. Raises ConfigError for a bad name,
    FileExistsError if there is such a folder, or another OSError.
    """
    check_name(name)
    folder = directory / name
    made = Written(
        config=folder / "config.yaml",
        mapping=folder / "example_identity_mapping_config.json",
        template=folder / "user_config_template.yaml.j2",
        schema=folder / "user_config_schema.json",
        environment=folder / "user_environment.yaml",
    )
    config = (
        "amqp_port: 443\ndisplay_name: null\n"
        f"identity_mapping_config_path: {_scalar(str(made.mapping))}\nmulti_user: true\n"
    )
    texts = (
        (made.config, config, 0o600),
        (made.mapping, json.dumps(MAPPING, indent=2) + "\n", 0o600),
        (made.template, TEMPLATE, 0o644),
        (made.schema, json.dumps(SCHEMA, indent=2) + "\n", 0o600),
        (made.environment, ENVIRONMENT, 0o600),
    )
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(errno.EEXIST, "there is such a folder already", str(folder))
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = directory / f".{name}.{os.getpid()}.new"
    draft.mkdir(mode=0o700)
    try:
        for path, text, mode in texts:
            fd = os.open(draft / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(fd, "w") as f:
                os.fchmod(fd, mode)
                f.write(text)
        os.rename(draft, folder)
    except BaseException:
        for leftover in draft.glob("*"):
            leftover.unlink()
        if draft.exists():
            draft.rmdir()
        raise
    return made
