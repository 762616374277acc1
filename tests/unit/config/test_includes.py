"""Which files templates may include."""

from __future__ import annotations

from pathlib import Path

import pytest

from mepd.config import endpoint, includes
from mepd.config.endpoint import parse_files, read_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text("public: true\n")
    (tmp_path / "user_config_template.yaml.j2").write_text("{% include 'a.j2' %}")
    return tmp_path


def included(folder: Path) -> set[str]:
    return set(parse_files("x", folder, read_files(folder)).includes)


def test_templates_of_the_folder_and_below(folder: Path) -> None:
    for name in ("a.j2", "b.jinja", "c.txt", ".hidden.j2", "sub/d.yaml", "sub/e/f.yml",
                 "sub/e/g/h.j2", ".git/i.j2"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x: 1")
    (folder / "link.j2").symlink_to("c.txt")
    (folder / "loop").symlink_to(".")
    assert included(folder) == {"a.j2", "b.jinja", "sub/d.yaml", "sub/e/f.yml", "link.j2"}


def test_what_a_template_names_whatever_it_is_called(folder: Path) -> None:
    (folder / "a.j2").write_text('{%- extends "base.html" -%}{% import \'m/macros\' as m %}')
    (folder / "base.html").write_text("{% from 'm/more.txt' import x %}")
    (folder / "m").mkdir()
    (folder / "m/macros").write_text("")
    (folder / "m/more.txt").write_text("{% include ['none.txt', 'a.j2/x', 'm'] ignore missing %}")
    assert included(folder) == {"a.j2", "base.html", "m/macros", "m/more.txt"}


@pytest.mark.parametrize("named", ["map.json", "{folder}/map.json", "./sub/../map.json"])
def test_nothing_that_is_not_for_users(folder: Path, named: str) -> None:
    names = ["config.yaml", "user_environment.yaml", "endpoint.json", "map.json", "../out.j2"]
    named = named.format(folder=folder)
    (folder / "config.yaml").write_text(f"identity_mapping_config_path: {named}\n")
    (folder / "map.json").write_text("[]")
    (folder / "user_environment.yaml").write_text("A: b")
    (folder.parent / "out.j2").write_text("")
    tags = "".join(f"{{% include '{name}' %}}" for name in [*names, str(folder / "map.json")])
    (folder / "user_config_template.yaml.j2").write_text(tags)
    assert included(folder) == set()


def test_as_many_as_there_may_be(folder: Path) -> None:
    for number in range(includes.FILES_MAX + 10):
        (folder / f"{number}.j2").write_text("")
    assert len(included(folder)) <= includes.FILES_MAX


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("{% include 'a' %}{%+ include \"b\" -%}", ["a", "b"]),
        ("{% include 'a' if x else 'b' %}", ["a", "b"]),
        ("{% includes 'a' %}{{ include('a') }}{% set include = 'a' %}", []),
        ("{% include '/a' %}{% include '../a' %}{% include 'b/../a' %}{% include './a' %}", []),
    ],
)
def test_names_in_tags(text: str, names: list[str]) -> None:
    assert includes.named(text) == names


def test_a_change_of_an_included_file_is_a_change(folder: Path) -> None:
    (folder / "a.j2").write_text("x: 1")
    before = endpoint.versions(read_files(folder))
    (folder / "a.j2").write_text("x: 2")
    after = endpoint.versions(read_files(folder))
    assert {n for n in after if after[n] != before[n]} == {"a.j2"}
