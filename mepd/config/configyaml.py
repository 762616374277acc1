"""config.yaml with typed access; errors name the file, the line and the key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mepd.config import limits, safeyaml, textfile
from mepd.config.names import UUID, nearest
from mepd.errors import ConfigError
from mepd.posix.rlimits import Limit

HONOURED = frozenset({
    "display_name", "identity_mapping_config_path", "multi_user", "amqp_port", "pam",
    "allowed_functions", "authentication_policy", "heartbeat_period", "public", "admins",
    "subscription_id", "high_assurance", "mu_child_ep_grace_period_s", "uep_command",
    "max_ueps_per_user", "user_config_template_path", "user_config_schema_path",
    "audit_log_path", "limits",
})  # fmt: skip
IGNORED = frozenset({
    "environment", "local_compute_services", "email", "contact_email",
    "detach_endpoint", "debug", "force_mu_allow_same_user", "paths", "funcx_service_address",
})  # fmt: skip
"""Known to globus-compute-endpoint 4.19 or before, and without meaning here."""
PATH_KEYS = ("identity_mapping_config_path", "user_config_template_path", "user_config_schema_path")


def _line_of(text: str, key: str) -> int:
    for number, line in enumerate(text.split("\n"), start=1):
        if re.match(rf"['\"]?{re.escape(key)}['\"]?\s*:", line):
            return number
    return 0


class ConfigYaml:
    """The values of config.yaml. Every method raises ConfigError for a value that is none."""

    def __init__(self, text: str, path: Path) -> None:
        self.values = safeyaml.load_unique(text, str(path))
        self._text = text
        self._path = path
        for key in self.values:
            self._check_key(key)
        if self.boolean("multi_user") is False:
            raise self.error("multi_user", "must be true: mepd serves multi-user endpoints only")

    def error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"{key}: {message}", str(self._path), _line_of(self._text, key))

    def _check_key(self, key: str) -> None:
        if key == "engine":
            raise self.error(
                key, "a multi-user endpoint runs no tasks itself; put the engine block into"
                " user_config_template.yaml.j2",
            )  # fmt: skip
        if key not in HONOURED and key not in IGNORED:
            raise self.error(key, f"unknown key{nearest(key, HONOURED)}")

    def _get(self, key: str, kinds: tuple[type, ...], what: str) -> Any:
        value = self.values.get(key)
        if value is None or (isinstance(value, kinds) and type(value) in kinds):
            return value
        raise self.error(key, f"must be {what}")

    def text(self, key: str) -> str | None:
        value: str | None = self._get(key, (str,), "a text")
        return value

    def boolean(self, key: str) -> bool | None:
        value: bool | None = self._get(key, (bool,), "true or false")
        return value

    def number(self, key: str, default: float, minimum: float = 0.0, maximum: float = 1e9) -> float:
        value = self._get(key, (int, float), "a number")
        if value is None:
            return default
        if not minimum <= value <= maximum:
            raise self.error(key, f"must be from {minimum:g} to {maximum:g}")
        return float(value)

    def whole(self, key: str, maximum: int) -> int | None:
        value = self._get(key, (int,), "a whole number")
        if value is not None and not 0 <= value <= maximum:
            raise self.error(key, f"must be from 0 to {maximum}")
        return None if value is None else int(value)

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self._get(key, (list,), "a list")
        if value is None:
            return None
        if not all(isinstance(v, str) for v in value):
            raise self.error(key, "must be a list of texts")
        return tuple(value)

    def uuid(self, key: str) -> str | None:
        value = self.text(key)
        if value is not None and UUID.fullmatch(value) is None:
            raise self.error(key, f"{value[:50]!r} is no UUID")
        return None if value is None else value.lower()

    def uuids(self, key: str) -> tuple[str, ...] | None:
        values = self.texts(key)
        for value in values or ():
            if UUID.fullmatch(value) is None:
                raise self.error(key, f"{value[:50]!r} is no UUID")
        return None if values is None else tuple(v.lower() for v in values)

    def file(self, key: str) -> str | None:
        """A path, normalised; a relative one starts at the endpoint's folder."""
        value = self.text(key)
        if not value:
            return None
        if not textfile.is_path(value):
            raise self.error(key, f"{value[:80]!r} is no path")
        try:
            return os.path.normpath(Path(value).expanduser())
        except RuntimeError:
            raise self.error(key, f"{value[:80]!r} names the home of nobody") from None

    def pam(self, default_service: str) -> tuple[bool, str]:
        """(enable, service): no block is off; a block without ``enable`` is on."""
        block = self._get("pam", (dict,), "a mapping")
        if block is None:
            return False, default_service
        unknown = sorted(set(block) - {"enable", "service_name"}, key=str)
        if unknown:
            raise self.error("pam", f"unknown key {unknown[0]!r}; known are enable, service_name")
        enable = block.get("enable", True)
        name = block.get("service_name", default_service)
        if not isinstance(enable, bool):
            raise self.error("pam", "enable must be true or false")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
            raise self.error("pam", "service_name must be the name of a file of /etc/pam.d")
        return enable, name

    def limits(self) -> tuple[Limit, ...]:
        block = self._get("limits", (dict,), "a mapping of limits")
        try:
            return limits.parse(block or {})
        except ValueError as e:
            raise self.error("limits", str(e)) from None

    def command(self, default: tuple[str, ...]) -> tuple[str, ...]:
        """``uep_command``: argv, or a program alone, which gets the default's arguments."""
        value = self.values.get("uep_command")
        words = (value,) if isinstance(value, str) else self.texts("uep_command")
        if words is None:
            return default
        if not words or not words[0]:
            raise self.error("uep_command", "is empty")
        if not all(map(textfile.is_path, words)):
            raise self.error("uep_command", "holds what no command can")
        if "/" in words[0] and not words[0].startswith("/"):
            raise self.error("uep_command", "must be a name or an absolute path")
        if len(words) == 1:
            words = (words[0], *default[1:])
        if not any("{name}" in word for word in words[1:]):
            raise self.error("uep_command", "must pass {name}, the user endpoint's name")
        return tuple(words)

    def ignored(self) -> tuple[str, ...]:
        """A warning for each key that is set and has no meaning here."""
        return tuple(
            f"config.yaml: {key} has no meaning here and is ignored"
            for key, value in self.values.items()
            if key in IGNORED and value not in (None, False)
        )


def named_files(text: str, path: Path) -> Mapping[str, str]:
    """The files that a config.yaml names, by key, as :meth:`ConfigYaml.file` gives them."""
    config = ConfigYaml(text, path)
    found = {key: config.file(key) for key in PATH_KEYS}
    return {key: target for key, target in found.items() if target is not None}
