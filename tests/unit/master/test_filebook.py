"""The book of versions: since when each is in force, and which file an error is about."""

from __future__ import annotations

from pathlib import Path

import pytest

from mepd.config.settings import EndpointSection, EndpointSnapshot
from mepd.master.endpoints import Endpoint
from mepd.master.filebook import FileBook
from mepd.master.reconfigure import EndpointPlan, plan_endpoints


def book() -> FileBook:
    clock = iter(range(100, 1000, 100))
    return FileBook(Path("/e"), {"a.yaml": "v1", "/x/b": "v1"}, clock=lambda: next(clock))


def test_what_did_not_change_keeps_its_time() -> None:
    b = book()
    b.accept({"a.yaml": "v2", "/x/b": "v1"})
    rows = {r["path"]: (r["version"], r["since"]) for r in b.view()}
    assert rows == {"/e/a.yaml": ("v2", 200), "/x/b": ("v1", 100)}


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        ("a.yaml:3: wrong", "/e/a.yaml"),
        ("/e/a.yaml: wrong", "/e/a.yaml"),
        ("/x/b:1: is about a.yaml", "/x/b"),
        ("/e: is writable by others (on the way to /x/b)", "/x/b"),
        ("new.json: wrong", "/e/new.json"),
        ("out of luck", "/e/default"),
    ],
)
def test_the_file_to_blame(error: str, blamed: str) -> None:
    b = book()
    assert b.refuse(error, "default", ["new.json"])
    assert not b.refuse(error, "default", ["new.json"])  # known
    (row,) = [r for r in b.view() if r["error"]]
    assert (row["path"], row["error"]) == (blamed, error)
    b.accept(b.versions)
    assert not any(r["error"] for r in b.view()) and len(b.view()) == 2


def endpoint(name: str, directory: str, **state: bool) -> Endpoint:
    made = Endpoint(
        EndpointSnapshot(
            name=name, directory=Path(directory), endpoint_id=None, config={}, template_name="",
            template="", schema=None, mappings=None, mapping_path=None, environment={},
        )
    )  # fmt: skip
    for key, value in state.items():
        setattr(made, key, value)
    return made


def section(name: str, directory: str, autostart: bool = True) -> EndpointSection:
    return EndpointSection(name, Path(directory), autostart)


@pytest.mark.parametrize(
    ("running", "wanted", "plan"),
    [
        ([endpoint("a", "/a")], [section("a", "/a")], EndpointPlan()),
        ([], [section("a", "/a")], EndpointPlan(added=(section("a", "/a"),))),
        ([], [section("a", "/a", False)], EndpointPlan()),
        ([endpoint("a", "/a")], [section("a", "/a", False)], EndpointPlan()),
        ([endpoint("a", "/a")], [], EndpointPlan(removed=("a",))),
        ([endpoint("a", "/a", by_hand=True)], [], EndpointPlan()),
        ([endpoint("a", "/a", draining=True)], [], EndpointPlan()),
        ([endpoint("a", "/a", draining=True)], [section("a", "/a")], EndpointPlan(resumed=("a",))),
        ([endpoint("a", "/a")], [section("a", "/b")], EndpointPlan(added=(section("a", "/b"),))),
        ([endpoint("a", "/a", draining=True)], [section("a", "/b")],
         EndpointPlan(added=(section("a", "/b"),))),
    ],
)  # fmt: skip
def test_what_becomes_of_the_endpoints(
    running: list[Endpoint], wanted: list[EndpointSection], plan: EndpointPlan
) -> None:
    assert plan_endpoints({e.name: e for e in running}, wanted) == plan
