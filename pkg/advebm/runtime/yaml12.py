"""YAML 1.2 as DVC reads and writes it: 1e-05 is a number, which YAML 1.1 takes for text; 010, 1:30 and yes differ too."""

import re
from typing import Any, ClassVar

import yaml
from yaml import YAMLError

__all__ = ["YAMLError", "load"]

TAG = "tag:yaml.org,2002:"
SCALARS = (  # a tag of the core schema, what it looks like, and its first characters
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~", "nN~"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("merge", r"<<", "<"),
)

DEPTH = 50  # of nested parts at most: libyaml and what walks through the content are recursive
PARTS = 10**5  # of a document at most, aliases counted as what they stand for


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # without those of YAML 1.1


for _tag, _pattern, _first in SCALARS:
    _Loader.add_implicit_resolver(TAG + _tag, re.compile(rf"(?:{_pattern})\Z"), [*_first])
_Loader.add_implicit_resolver(TAG + "null", re.compile(r"\Z"), [""])
_Loader.add_constructor(TAG + "int", lambda loader, node: int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10))


def load(text: str) -> Any:
    """The content of a document. Raises yaml.YAMLError, also where it is nested too deeply, or its aliases multiply."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise YAMLError(f"more than {DEPTH} parts inside each other")
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is not None and _parts(node, {}) > PARTS:
        raise YAMLError(f"more than {PARTS} parts, or one inside itself")
    return None if node is None else loader.construct_document(node)


def _parts(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """The number of parts that a node has once its aliases are replaced; infinite if it is inside itself."""
    if node not in known:
        known[node] = float("inf")  # until its parts are counted
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[node] = 1 + sum(_parts(part, known) for part in inner if isinstance(node, yaml.CollectionNode))
    return known[node]
