"""A process that answers for mepctl, and takes too long."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from mepd.ctl import isolated, preview
from mepd.ctl.checkendpoint import EndpointCheck
from mepd.ctl.findings import ERROR, Findings
from mepd.errors import ControlError


def test_one_that_does_not_answer_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a mapping program that hangs, which is what mepctl map is to find."""
    hangs = tmp_path / "python"
    hangs.write_text("#!/bin/sh\nexec sleep 600\n")
    hangs.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hangs))
    monkeypatch.setattr(isolated, "PATIENCE_S", 0.2)
    with pytest.raises(ControlError, match=r"mepd.launch.preview: no answer in 0.2 s") as raised:
        preview._run({"verb": "map"})
    assert raised.value.exit_code == os.EX_TEMPFAIL
    found = Findings()
    check = EndpointCheck(found, "gpu", tmp_path, pwd.getpwuid(os.getuid()))
    check._attempt("contents", check._compiled)
    (only,) = found.found
    assert only.state == ERROR and "no answer in 0.2 s" in only.detail
