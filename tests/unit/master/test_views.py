"""What mepctl status shows to whom."""

from __future__ import annotations

from mepd.master import views


def test_configuration_files_are_not_for_everybody() -> None:
    row = {"path": "/e/config.yaml", "version": "canary", "since": 1.0, "error": "canary"}
    status = {
        "master": {"pid": 1, "files": [row]},
        "workers": [],
        "endpoints": [
            {"name": "a", "draining": False, "reason": "canary", "files": [row]},
            {"name": "b", "draining": False, "reason": "offline", "files": []},
        ],
    }
    shown = views.for_anybody(status)
    assert "canary" not in str(shown) and "canary" in str(status)
    reasons = [e["reason"] for e in shown["endpoints"]]
    assert reasons == ["its configuration has an error", "offline"]
    assert shown["master"] == {"pid": 1, "files": []}
