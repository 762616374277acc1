"""YAML from files that may be hostile: bounded in size, depth and expansion of aliases."""

from __future__ import annotations

from typing import Any

import yaml

from mepd.errors import ConfigError

SIZE_MAX = 1024 * 1024
NODES_MAX = 100_000


def _problem(error: yaml.YAMLError, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
    return ConfigError(str(text)[:200], name, mark.line + 1 if mark is not None else 0)


class _Measure:
    """Counts the nodes that a document has once its aliases are followed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node) -> int:
        """Raises ConfigError when there are too many, or endlessly many."""
        key = id(node)
        if key in self._sizes:
            return self._sizes[key]
        line = node.start_mark.line + 1
        if key in self._open:
            raise ConfigError("an alias that contains itself", self._name, line)
        self._open.add(key)
        total = 1 + sum(self.size(child) for child in _children(node))
        self._open.discard(key)
        if total > NODES_MAX:
            raise ConfigError(f"more than {NODES_MAX} values", self._name, line)
        self._sizes[key] = total
        return total


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def load(text: str, name: str) -> Any:
    """The document of a file called ``name``, with plain values only.

    Raises ConfigError with file, line and reason.
    """
    if len(text) > SIZE_MAX:
        raise ConfigError(f"larger than {SIZE_MAX} characters", name)
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Measure(name).size(node)
        return loader.construct_document(node)
    except yaml.YAMLError as e:
        raise _problem(e, name) from None
    except RecursionError:
        raise ConfigError("nested too deeply", name) from None
    except ValueError as e:
        raise ConfigError(f"a value that is none: {e}"[:200], name) from None
