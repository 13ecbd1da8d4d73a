"""The packages of pyproject.toml: the base installation, and what the extras add."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from advebm import cli
from advebm.runtime.extras import EXTRAS, Missing, named
from test_bad_input import error_of

OTHER = {
    "PIL": "pillow",
    "ruamel": "ruamel.yaml.clib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]


def names(texts):
    return {re.match(r"[\w.-]+", text)[0] for text in texts}


def imported():
    """The packages that the product imports, by their top module, except for type checkers. Who uses an adapter has its
    library."""
    found = {"dvc", "ruamel"}  # which only run as DVC
    for file in {*Path("pkg").rglob("*.py")} - {*Path("pkg/advebm/adapters").iterdir()}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - sys.stdlib_module_names - {"advebm", "typing_extensions"}  # the latter comes with pydantic


def test_every_package_is_declared_where_the_error_says():
    base, extras = names(PROJECT["dependencies"]), PROJECT["optional-dependencies"]
    for module in imported():
        declared = names(extras[EXTRAS[module]]) if module in EXTRAS else base
        assert OTHER.get(module, module.replace("_", "-")) in declared, module
    assert set(EXTRAS) <= imported()


def test_the_extras_of_the_pipeline_and_the_developers_are_nested():
    extras = PROJECT["optional-dependencies"]
    everything = re.match(r"advebm\[(.*)\]", extras["pipeline"][0])[1].split(",")
    assert {*everything, "pipeline", "mnist", "docs", "export", "hub", "dev"} == set(extras)
    assert "advebm[pipeline]" in extras["mnist"] and "advebm[docs,export,hub,pipeline]" in extras["dev"]


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jsonschema.exceptions", None)
    shown = error_of("check at --study tiny", monkeypatch, capsys, out=tmp_path)
    assert shown.endswith("jsonschema, which is not installed: pip install 'advebm[pipeline]', in a clone '.[pipeline]'\n")
    with pytest.raises(Missing, match="needs normflows"), named():
        raise ModuleNotFoundError("no", name="normflows.flows")
    with pytest.raises(ModuleNotFoundError, match="no"), named():
        raise ModuleNotFoundError("no", name="a module of no extra")
    assert cli.extras.Missing is Missing
