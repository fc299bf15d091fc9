"""Safe loading of YAML files: rejects duplicate keys and records the line of each key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from airsmith.errors import AirsmithError, ErrorKind


@dataclass(frozen=True)
class YamlFile:
    """A YAML mapping with the line numbers of its keys.

    :param lines: line number by dotted key.
    """

    path: Path
    content: Mapping[str, Any]
    lines: Mapping[str, int]

    def line(self, key: str) -> int:
        """Line of a dotted key, or of its nearest parent in the file."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return self.lines.get(key, 1)


class _Loader(yaml.SafeLoader):
    """Parses `1e-4` as a number, like YAML 1.2; PyYAML parses it as a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML file that contains a mapping.

    :raises AirsmithError: `bad_recipe`, with the line of the mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise _bad(f"File {path} does not exist.", "Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(f"{path} cannot be read as UTF-8 text: {error}.", "Save it as UTF-8.") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise _bad(f"{path}:1: the file contains no keys.", "Set at least model and dataset in a recipe.")
        lines: dict[str, int] = {}
        _record_lines(node, "", lines, path)
        content = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _bad(f"{path}:{line}: invalid YAML: {error.problem}.", "Correct that line.") from error
    except yaml.YAMLError as error:
        raise _bad(f"{path}: invalid YAML: {error}.", "Correct the file.") from error
    return YamlFile(path, content, lines)


def _record_lines(node: yaml.MappingNode, prefix: str, lines: dict[str, int], path: Path) -> None:
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = f"{prefix}{key_node.value}"
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            raise _bad(f"{path}:{line}: a key must be a string, not {key_node.value!r}.", "Put it in quotes.")
        if key in lines:
            raise _bad(
                f"{path}:{line}: duplicate key {key}, first defined on line {lines[key]}.", "Remove one of them."
            )
        lines[key] = line
        if isinstance(value_node, yaml.MappingNode):
            _record_lines(value_node, f"{key}.", lines, path)


def _bad(message: str, hint: str) -> AirsmithError:
    return AirsmithError(ErrorKind.BAD_RECIPE, message, hint)
