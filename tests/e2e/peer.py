"""globus-compute-endpoint as a manager, registered by nothing but its environment."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

TEMPLATE = """\
display_name: peer
engine:
  type: {{ ENGINE|default("ThreadPoolEngine") }}
  max_workers{{ "_per_node" if "GlobusCompute" in ENGINE|default("") else "" }}: 2
idle_heartbeats_soft: 10
idle_heartbeats_hard: 5760
heartbeat_period: 5
"""


class Manager:
    """globus-compute-endpoint as root at the service of port 5000, where a stock one looks
    for a local service; ``client`` holds client_id and client_secret."""

    def __init__(
        self,
        directory: Path,
        peer: Path,
        auth_url: str,
        client: dict[str, str],
        mapping: Path,
        template: str = TEMPLATE,
    ) -> None:
        self.dir = directory
        self.folder = self.dir / "manager"
        self.folder.mkdir(parents=True, mode=0o700)
        self.environment = {
            "PATH": f"{peer}/bin:/usr/bin:/bin",
            "HOME": str(self.dir),
            "GLOBUS_COMPUTE_USER_DIR": str(self.dir),
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": auth_url,
            "GLOBUS_COMPUTE_CLIENT_ID": client["client_id"],
            "GLOBUS_COMPUTE_CLIENT_SECRET": client["client_secret"],
        }
        copied = self.folder / "example_identity_mapping_config.json"
        shutil.copy(mapping, copied)
        (self.folder / "config.yaml").write_text(
            "display_name: the peer\nemail: root@example.org\npublic: true\n"
            f"local_compute_services: true\nidentity_mapping_config_path: {copied}\n"
        )
        (self.folder / "user_config_template.yaml.j2").write_text(template)
        (self.folder / "user_environment.yaml").write_text(f"PATH: {peer}/bin:/usr/bin:/bin\n")
        with (self.dir / "console").open("wb") as console:
            self.process = subprocess.Popen(
                [peer / "bin/globus-compute-endpoint", "start", "manager"],
                env=self.environment, cwd=self.dir, stdin=subprocess.DEVNULL,
                stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def log(self) -> str:
        files = (self.dir / "console", self.folder / "endpoint.log")
        return "".join(f.read_text() for f in files if f.exists())

    @property
    def endpoint_id(self) -> str:
        """Once it is registered."""
        found = self.folder / "endpoint.json"
        end = time.monotonic() + 60
        while not found.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.log()[-4000:]
            time.sleep(0.1)
        return str(json.loads(found.read_text())["endpoint_id"])

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
