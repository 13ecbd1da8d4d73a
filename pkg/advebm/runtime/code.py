"""The code that makes results: the modules that a module imports, directly or not, with their digests."""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
IDLE = (  # modules that cannot change a result: configuration, storage, progress, tracking, and tables of names
    *("config", "ranges", "commands.options", "methods", "evaluation"),
    *("runtime.code", "runtime.disk", "runtime.progress", "runtime.project", "runtime.signals"),
    *("runtime.state", "runtime.tracking"),
)


def reached(roots: Iterable[str], *, alone: Iterable[str] = (), without: Iterable[str] = ()) -> dict[str, str]:
    """{file: sha256} of these modules, of the package's modules that they import, directly or not, and of data files that
    these name.

    Modules are named without the package, as in "evaluation.ood". alone: modules that count without their imports. without:
    packages or modules to leave out, in addition to IDLE.
    """
    alone, without = set(alone), {*without, *IDLE}
    found: dict[str, str] = {}
    seen: set[str] = set()
    ahead = [*roots, *alone]
    while ahead:
        module = ahead.pop()
        if module in seen or module in without or module.split(".")[0] in without - {"methods", "evaluation"}:
            continue
        seen.add(module)
        file = _file(module)
        for path in (file, *_named(file)):
            found[path.relative_to(PACKAGE).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        if module not in alone:
            ahead += imported(file)
    return dict(sorted(found.items()))


@cache
def imported(file: Path) -> tuple[str, ...]:
    """The package's modules that a file imports, at its top or in a function, except for type checkers only."""
    names = []
    for node in _statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "advebm":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                name = f"{base}.{alias.name}".strip(".")
                names.append(name if _file(name).is_file() else base)
    return tuple(dict.fromkeys(name for name in names if name))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _statements(child)


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _named(file: Path) -> list[Path]:
    """Files next to a module that it reads: the arguments of its `with_name`."""
    names = re.findall(r"__file__\)\.with_name\(\"([^\"]+)\"\)", file.read_text(encoding="utf-8"))
    return [file.with_name(name) for name in names]
