"""What an endpoint tells the service of itself: the body of POST /v3/endpoints.

Its form is that of globus-compute-sdk 4.19, ``Client.register_endpoint``.
"""

from __future__ import annotations

import functools
import os
import platform
import pwd
import socket
from typing import Any

import mepd
from mepd.config.configyaml import ConfigYaml


@functools.cache
def _this_process() -> dict[str, str]:
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return {
        "endpoint_version": mepd.__version__,
        "python_version": platform.python_version(),
        "hostname": socket.gethostname(),
        "local_user": user,
    }


def body(
    name: str, config: ConfigYaml, config_text: str, template: str, schema: dict[str, Any] | None
) -> dict[str, Any]:
    """Keys without a value are left out; a list of no functions is a value: none may run.

    Raises ConfigError.
    """
    functions = config.uuids("allowed_functions")
    whole: dict[str, Any] = {
        "endpoint_name": name,
        "multi_user": True,
        "display_name": config.text("display_name"),
        "allowed_functions": None if functions is None else list(functions),
        "authentication_policy": config.uuid("authentication_policy"),
        "subscription_uuid": config.uuid("subscription_id"),
        "admins": list(config.uuids("admins") or ()) or None,
        "public": config.boolean("public"),
        "high_assurance": config.boolean("high_assurance"),
        "metadata": {
            **_this_process(),
            "endpoint_config": config_text,
            "user_config_template": template,
            "user_config_schema": schema,
        },
    }
    return {key: value for key, value in whole.items() if value is not None}
