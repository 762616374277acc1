"""What Parsl's objects take, as plain tables: a key and the kind of its value.

Importing Parsl costs half a second, and its code must not run where configurations are
checked. tests/unit/config/test_parslkeys.py holds the tables against the installed Parsl.
"""

from __future__ import annotations

import enum


class Kind(enum.Enum):
    """The kinds of values; what an error says is needed."""

    INTEGER = "a whole number"
    NUMBER = "a number"
    TEXT = "a string"
    SCALAR = "a string or a number"
    WALLTIME = "a time as HH:MM:SS, or seconds"
    FLAG = "true or false"
    TEXTS = "a list of strings"
    COMMAND = "a list of strings or a string"
    MAPPING = "a mapping of names to strings or numbers"
    PORTS = "a list of two port numbers"
    ACCELERATORS = "a whole number or a list of strings"
    VOLUMES = "a list of pairs of strings"
    LAUNCHER = "a block with a launcher's type"
    PROVIDER = "a block with a provider's type"
    ADDRESS = "a string, or a block with a type"
    OBJECT = "no value, since YAML cannot spell one"


INTEGER, NUMBER, TEXT, SCALAR = Kind.INTEGER, Kind.NUMBER, Kind.TEXT, Kind.SCALAR
WALLTIME, FLAG, TEXTS, COMMAND = Kind.WALLTIME, Kind.FLAG, Kind.TEXTS, Kind.COMMAND
MAPPING, PORTS, OBJECT = Kind.MAPPING, Kind.PORTS, Kind.OBJECT

_BLOCKS = {
    "nodes_per_block": INTEGER,
    "init_blocks": INTEGER,
    "min_blocks": INTEGER,
    "max_blocks": INTEGER,
    "parallelism": NUMBER,
}
_CLUSTER = {
    **_BLOCKS,
    "launcher": Kind.LAUNCHER,
    "worker_init": TEXT,
    "cmd_timeout": INTEGER,
    "walltime": WALLTIME,
    "scheduler_options": TEXT,
}
_CLOUD = {
    "init_blocks": INTEGER,
    "min_blocks": INTEGER,
    "max_blocks": INTEGER,
    "parallelism": NUMBER,
    "launcher": Kind.LAUNCHER,
}

PROVIDERS: dict[str, dict[str, Kind]] = {
    "AWSProvider": {
        **_CLOUD,
        "image_id": TEXT,
        "key_name": TEXT,
        "nodes_per_block": INTEGER,
        "worker_init": TEXT,
        "instance_type": TEXT,
        "region": TEXT,
        "spot_max_bid": NUMBER,
        "key_file": TEXT,
        "profile": TEXT,
        "iam_instance_profile_arn": TEXT,
        "state_file": TEXT,
        "walltime": WALLTIME,
        "linger": FLAG,
    },
    "AzureProvider": {
        **_CLOUD,
        "vm_reference": MAPPING,
        "worker_init": TEXT,
        "location": TEXT,
        "group_name": TEXT,
        "key_name": TEXT,
        "key_file": TEXT,
        "vnet_name": TEXT,
        "linger": FLAG,
    },
    "CondorProvider": {
        **_CLUSTER,
        "cores_per_slot": INTEGER,
        "mem_per_slot": NUMBER,
        "environment": MAPPING,
        "project": TEXT,
        "transfer_input_files": TEXTS,
        "requirements": TEXT,
        "cmd_chunk_size": INTEGER,
    },
    "GoogleCloudProvider": {
        **_CLOUD,
        "project_id": TEXT,
        "key_file": TEXT,
        "region": TEXT,
        "os_project": TEXT,
        "os_family": TEXT,
        "google_version": TEXT,
        "instance_type": TEXT,
    },
    "GridEngineProvider": {**_CLUSTER, "queue": SCALAR},
    "KubernetesProvider": {
        **_BLOCKS,
        "image": TEXT,
        "namespace": TEXT,
        "max_cpu": NUMBER,
        "max_mem": TEXT,
        "init_cpu": NUMBER,
        "init_mem": TEXT,
        "extra_requests": MAPPING,
        "extra_limits": MAPPING,
        "worker_init": TEXT,
        "pod_name": TEXT,
        "user_id": TEXT,
        "group_id": TEXT,
        "run_as_non_root": FLAG,
        "secret": TEXT,
        "persistent_volumes": Kind.VOLUMES,
        "service_account_name": TEXT,
        "annotations": MAPPING,
    },
    "LSFProvider": {
        **_CLUSTER,
        "cores_per_block": INTEGER,
        "cores_per_node": INTEGER,
        "project": SCALAR,
        "queue": SCALAR,
        "bsub_redirection": FLAG,
        "request_by_nodes": FLAG,
    },
    "LocalProvider": {
        **_BLOCKS,
        "launcher": Kind.LAUNCHER,
        "worker_init": TEXT,
        "cmd_timeout": INTEGER,
    },
    "PBSProProvider": {
        **_CLUSTER,
        "account": SCALAR,
        "queue": SCALAR,
        "select_options": TEXT,
        "cpus_per_node": INTEGER,
    },
    "SlurmProvider": {
        **_CLUSTER,
        "partition": TEXT,
        "account": TEXT,
        "qos": TEXT,
        "constraint": TEXT,
        "clusters": TEXT,
        "cores_per_node": INTEGER,
        "mem_per_node": INTEGER,
        "gpus_per_node": INTEGER,
        "gres": TEXT,
        "regex_job_id": TEXT,
        "status_batch_size": INTEGER,
        "exclusive": FLAG,
    },
    "TorqueProvider": {**_CLUSTER, "account": SCALAR, "queue": SCALAR},
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "AWSProvider": ("image_id", "key_name"),
    "AzureProvider": ("vm_reference",),
    "GoogleCloudProvider": ("project_id", "key_file", "region", "os_project", "os_family"),
    "KubernetesProvider": ("image",),
    "WrappedLauncher": ("prepend",),
    "address_by_interface": ("ifname",),
}
MINUTES = ("SlurmProvider", "LSFProvider")
"""Providers that compute with a walltime, and need it as HH:MM:SS."""
TYPED = ("CondorProvider", "KubernetesProvider", "SlurmProvider")
"""Providers that insist on strings where strings are meant."""
OWN_CONTAINERS = ("AWSProvider", "GoogleCloudProvider", "KubernetesProvider")
"""Providers whose blocks are containers or machines of their own."""
REMOTE = (*OWN_CONTAINERS, "AzureProvider", "CondorProvider")
"""Providers whose blocks may not see this machine's file systems."""

_DEBUG = {"debug": FLAG}
_OVERRIDES = {**_DEBUG, "overrides": TEXT}
LAUNCHERS: dict[str, dict[str, Kind]] = {
    "AprunLauncher": _OVERRIDES,
    "GnuParallelLauncher": _DEBUG,
    "JsrunLauncher": _OVERRIDES,
    "MpiExecLauncher": {**_OVERRIDES, "bind_cmd": TEXT},
    "MpiRunLauncher": {**_OVERRIDES, "bash_location": TEXT},
    "SimpleLauncher": _DEBUG,
    "SingleNodeLauncher": {**_DEBUG, "fail_on_any": FLAG},
    "SrunLauncher": _OVERRIDES,
    "SrunMPILauncher": _OVERRIDES,
    "WrappedLauncher": {**_DEBUG, "prepend": TEXT},
}
ADDRESSES: dict[str, dict[str, Kind]] = {
    "address_by_hostname": {},
    "address_by_interface": {"ifname": TEXT},
    "address_by_query": {"timeout": NUMBER},
    "address_by_route": {},
    "get_any_address": {},
}

_EXECUTOR = {
    "provider": Kind.PROVIDER,
    "launch_cmd": TEXT,
    "interchange_launch_cmd": COMMAND,
    "address": Kind.ADDRESS,
    "loopback_address": TEXT,
    "worker_port": INTEGER,
    "worker_port_range": PORTS,
    "interchange_port_range": PORTS,
    "storage_access": OBJECT,
    "working_dir": TEXT,
    "worker_debug": FLAG,
    "prefetch_capacity": INTEGER,
    "heartbeat_threshold": INTEGER,
    "heartbeat_period": INTEGER,
    "drain_period": INTEGER,
    "poll_period": INTEGER,
    "address_probe_timeout": INTEGER,
    "worker_logdir_root": TEXT,
    "block_error_handler": FLAG,
    "encrypted": FLAG,
    "remote_monitoring_radio": OBJECT,
}
EXECUTORS: dict[str, dict[str, Kind]] = {
    "GlobusComputeEngine": {
        **_EXECUTOR,
        "cores_per_worker": NUMBER,
        "mem_per_worker": NUMBER,
        "max_workers_per_node": INTEGER,
        "cpu_affinity": TEXT,
        "available_accelerators": Kind.ACCELERATORS,
        "manager_selector": OBJECT,
    },
    "GlobusMPIEngine": {**_EXECUTOR, "max_workers_per_block": INTEGER, "mpi_launcher": TEXT},
}
MPI_LAUNCHERS = ("srun", "aprun", "mpiexec")

JOB_STATUS: dict[str, Kind] = {
    "strategy": TEXT,
    "max_idletime": NUMBER,
    "strategy_period": NUMBER,
}
STRATEGIES = ("none", "simple", "htex_auto_scale")
STRATEGY_BLOCKS = ("SimpleStrategy",)
"""Types of a ``strategy`` block, as older endpoints have it; ``interval`` was its period."""
STRATEGY_KEYS: dict[str, Kind] = {"interval": NUMBER, "max_idletime": NUMBER}

ENGINE: dict[str, Kind] = {
    "label": TEXT,
    "max_retries_on_system_failure": INTEGER,
    "container_type": TEXT,
    "container_uri": TEXT,
    "container_cmd_options": TEXT,
    "run_in_sandbox": FLAG,
    "allowed_serializers": TEXTS,
}
"""The engine's own keys, beside type, strategy and job_status_kwargs."""
CONTAINERS = ("docker", "podman", "podman-hpc", "apptainer", "singularity", "custom")
