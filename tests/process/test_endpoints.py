"""What a worker says of an endpoint, which is not believed blindly."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from mepd.errors import WireError
from mepd.master.endpoints import Endpoint, remember_id
from tests.root import launching


def endpoint(folder: Path) -> Endpoint:
    return Endpoint(launching.snapshot(("x",), directory=folder, endpoint_id=None))


def test_the_id_is_kept(tmp_path: Path) -> None:
    served, new = endpoint(tmp_path), str(uuid.uuid4())
    remember_id(served, new)
    assert served.endpoint_id == new
    assert json.loads((tmp_path / "endpoint.json").read_text()) == {"endpoint_id": new}


@pytest.mark.parametrize("bad", ["", "\x1b]0;x\x07", "../../etc", f"{uuid.UUID(int=1)}\n"])
def test_what_is_no_id_is_refused(tmp_path: Path, bad: str) -> None:
    """It would stand on the administrator's terminal, and mepd could not start again."""
    served = endpoint(tmp_path)
    with pytest.raises(WireError, match="no endpoint's id"):
        remember_id(served, bad)
    assert served.endpoint_id is None and not list(tmp_path.iterdir())


def test_another_id_than_it_has_is_refused(tmp_path: Path) -> None:
    """With it on disk the endpoint would be another one after the next start."""
    served = endpoint(tmp_path)
    remember_id(served, launching.MEP)
    with pytest.raises(WireError, match="is not the id of endpoint test"):
        remember_id(served, str(uuid.uuid4()))
    assert served.endpoint_id == launching.MEP
    assert json.loads((tmp_path / "endpoint.json").read_text()) == {"endpoint_id": launching.MEP}


def test_R7_the_id_is_written_once_and_again_only_where_that_failed(tmp_path: Path) -> None:
    """A worker that tells it without end is not to keep the disk, and so the master, busy."""
    folder = tmp_path / "full"
    served = endpoint(folder)
    remember_id(served, launching.MEP)  # the folder is not there: as on a full disk
    folder.mkdir()
    remember_id(served, launching.MEP)
    (folder / "endpoint.json").unlink()
    remember_id(served, launching.MEP)
    assert not list(folder.iterdir())
