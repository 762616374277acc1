"""Jinja's sandbox as starts use it: printed and joined values know where they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mepd.launch.quoting import Placed, join, printable, shell_escape


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        """``a ~ b`` by :func:`join`."""
        self.write("environment.concat((")
        for part in node.nodes:
            self.write("str(")
            self.visit(part, frame)
            self.write("), ")
        self.write("))")


class _Sandbox(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    concat = staticmethod(join)
    intercepted_binops = frozenset("+")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """``a + b``, likewise; of anything else as ever."""
        if isinstance(left, str) and isinstance(right, str):
            return join((left, right))
        return super().call_binop(context, operator, left, right)


def render(text: str, includes: Mapping[str, str], variables: Mapping[str, Any]) -> Placed:
    """What a template with these includes, by name, makes of variables. Raises Jinja's
    errors."""
    environment = _Sandbox(
        undefined=jinja2.StrictUndefined, loader=jinja2.DictLoader(includes), finalize=printable
    )
    environment.filters["shell_escape"] = shell_escape
    # Not Template.render(), which makes one plain text of it
    return join(environment.from_string(text).generate(variables))
