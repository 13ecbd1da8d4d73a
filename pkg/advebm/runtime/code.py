"""The code that makes results: the modules that a module imports, directly or not, with their digests."""

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def reached(roots: Iterable[str], *, alone: Iterable[str] = (), without: Iterable[str] = ()) -> dict[str, str]:
    """{file: sha256} of these modules, of the package's modules that they import, directly or not, and of data files that
    these name.

    Modules are named without the package, as in "evaluation.ood". alone: modules that count without their imports. without:
    files to leave out, with what only they import, and folders, which end with /.
    """
    single = {_file(module) for module in alone}
    found: dict[str, str] = {}
    ahead = [*map(_file, roots), *single]
    while ahead:
        file = ahead.pop()
        name = file.relative_to(PACKAGE).as_posix()
        if name in found or name.startswith(tuple(without)):
            continue
        for path in (file, *_named(file)):
            found[path.relative_to(PACKAGE).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
        if file not in single:
            ahead += imported(file)
    return dict(sorted(found.items()))


@cache
def imported(file: Path) -> tuple[Path, ...]:
    """The package's modules that a file imports, at its top or in a function, except for type checkers only."""
    found: dict[Path, None] = {}
    for node in _statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "advebm":
            base = (node.module or "").partition(".")[2]
            for alias in node.names:
                module = _file(f"{base}.{alias.name}".strip("."))
                found[module if module.is_file() else _file(base)] = None
    return tuple(found)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case) and not typing:
            yield from _statements(child)


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _named(file: Path) -> list[Path]:
    """Files next to a module that it reads: the arguments of its `with_name`."""
    names = re.findall(r"__file__\)\.with_name\(\"([^\"]+)\"\)", file.read_text(encoding="utf-8"))
    return [file.with_name(name) for name in names]
