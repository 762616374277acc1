"""The folder of an endpoint is read as it is at one moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mepd.config import endpoint
from mepd.errors import ConfigError
from mepd.config import folder

TEMPLATE = "user_config_template.yaml.j2"


def make(directory: Path, version: int) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "config.yaml").write_text(f"display_name: v{version}\n")
    (directory / TEMPLATE).write_text(f"v: {version}\n")


def swap_between(monkeypatch: pytest.MonkeyPatch, directory: Path, times: int) -> None:
    """Write both files anew after config.yaml has been read, ``times`` times."""
    version = iter(range(2, times + 2))
    read = endpoint.read_text

    def text(path: Path) -> str | None:
        found = read(path)
        if path.name == "config.yaml":
            number = next(version, None)
            if number is not None:
                make(directory, number)
        return found

    monkeypatch.setattr(endpoint, "read_text", text)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_swap_amid_reading_gives_one_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    make(tmp_path, 1)
    swap_between(monkeypatch, tmp_path, times)
    files = folder.read(tmp_path, privileged=False)
    last = times + 1
    assert files == {"config.yaml": f"display_name: v{last}\n", TEMPLATE: f"v: {last}\n"}


def test_a_folder_that_never_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 1)
    swap_between(monkeypatch, tmp_path, 1000)
    with pytest.raises(ConfigError, match="changes while it is read"):
        folder.read(tmp_path, privileged=False)


@pytest.mark.parametrize(
    ("block", "privileged", "warned"),
    [
        ("pam: {service_name: gone}", True, True),
        ("pam: {}", True, True),
        ("pam: {service_name: there}", True, False),
        ("pam: {service_name: shipped}", True, False),
        ("pam: {service_name: gone, enable: false}", True, False),
        ("pam: {service_name: gone}", False, False),
    ],
)
def test_a_service_that_pam_has_not_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str, privileged: bool, warned: bool
) -> None:
    """PAM itself takes the rules of another one without a word."""
    places = tmp_path / "etc", tmp_path / "lib"
    for place, name in zip(places, ("there", "shipped")):
        place.mkdir()
        (place / name).touch()
    monkeypatch.setattr(folder, "PAM", places, raising=False)
    gpu = tmp_path / "gpu"
    make(gpu, 1)
    (gpu / "config.yaml").write_text(f"{block}\n")
    snapshot = folder.parse("gpu", gpu, folder.read(gpu, False), False)
    found = [w for w in folder.warnings(snapshot, privileged) if "the service other" in w]
    assert len(found) == warned
    for text in found:
        assert text.startswith(f"endpoint gpu: PAM service {snapshot.pam_service} has no file in")
