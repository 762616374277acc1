"""E7: allowed_functions beside a template that hands users a shell."""

from __future__ import annotations

from pathlib import Path

import pytest

from mepd.config import endpoint, templatelint

FUNCTIONS = "allowed_functions: [4ade2ce0-9c00-4d8c-b996-4dff8fbb4bd0]\n"


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("  worker_init: {{ worker_init }}\n", 1, "worker_init"),
        ("a: 1\nendpoint_setup: {{endpoint_setup|default()}}\n", 2, "endpoint_setup"),
        ("  worker_init: {{- (modules) | join(' ') }}\n", 1, "modules"),
        ("p:\n  worker_init: |\n    module load x\n\n    {{ more }}\n  o: {{ x }}\n", 5, "more"),
        ("  worker_init: |\n{% if a %}\n    {{ a }}\n{% endif %}\n", 3, "a"),
        ("  'worker_init': >-\n     conda activate py{{ user_runtime.python.version }}", 2,
         "user_runtime"),
        ("provider: {type: SlurmProvider, worker_init: {{ w }}, nodes: {{ n }}}\n", 1, "w"),
        ("engine: {\"endpoint_setup\": {{ setup }}}\n", 1, "setup"),
        ("- {scheduler_options: {{ s }}}\n", 1, "s"),
        ("  scheduler_options: {{ options|default('') }}\n", 1, "options"),
        ("  launcher: {type: WrappedLauncher, prepend: {{ p }}}\n", 1, "p"),
        ("endpoint_teardown: {{ 'rm -r /scratch/' ~ name }}\n", 1, "name"),
        ("worker_init: {{ 'module load %s'|format(module) }}\n", 1, "module"),
        ("worker_init: {{ (['module load'] + modules)|join(' ') }}\n", 1, "modules"),
        ("worker_init: {{ 'a' if true is defined else y }}\n", 1, "y"),
        ("worker_init: {{ setup() }}\n", 1, "setup"),
        ("worker_init: {{ setup(parent_config, more=x) }}\n", 1, "x"),
        ("worker_init: {{+ x +}}\n", 1, "x"),
    ],
)  # fmt: skip
def test_E7_a_users_text_in_a_shell_command_is_found(text: str, line: int, name: str) -> None:
    (warning,) = templatelint.lint({"t.j2": text})
    assert f"{{{{ {name} }}}} from the user (t.j2:{line})" in warning


@pytest.mark.parametrize(
    "text",
    [
        "worker_init: module load python\nnodes: {{ nodes }}\n",
        "worker_init: {{ parent_config.display_name }} {{ mapped_identity.local.uname }}\n",
        "worker_init: |\n  x\nnodes: {{ nodes }}\n",
        "{% if worker_init %}\nnodes: 1\n{% endif %}\n",
        "no_worker_init: {{ x }}\n",
        "worker_init: echo {{ x|shell_escape }}\n",
        "worker_init: {{ 'module load x' }}\nendpoint_setup: {{ parent_config['worker'] }}\n",
        "provider: {worker_init: module load x, nodes: {{ n }}}\n",
        "worker_init: {{ mapped_identity.local.uname ~ '/x' if true else none }}\n",
    ],
)
def test_E7_what_is_the_sites_own_is_no_matter(text: str) -> None:
    assert templatelint.lint({"t.j2": text}) == ()


def test_E7_a_warning_when_the_endpoint_is_read() -> None:
    """Only with allowed_functions, and for what is included, too."""
    template = "engine: {type: ThreadPoolEngine}\n{% include 'setup.yaml.j2' %}\n"
    files = {
        "config.yaml": FUNCTIONS, "user_config_template.yaml.j2": template,
        "setup.yaml.j2": "endpoint_setup: {{ setup }}\n",
    }  # fmt: skip
    (warning,) = endpoint.parse_files("x", Path("/x"), files).warnings
    assert warning.startswith("allowed_functions is set, but endpoint_setup takes {{ setup }}")
    assert "setup.yaml.j2:1" in warning
    files["config.yaml"] = "{}\n"
    assert endpoint.parse_files("x", Path("/x"), files).warnings == ()
