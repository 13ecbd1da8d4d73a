"""What dvc.yaml says of the stages, against the code."""

import ast
from pathlib import Path

import pytest
import yaml

FILES = [Path("dvc.yaml"), *sorted(Path("stages").rglob("dvc.yaml"))]
STAGES = {name: stage.get("do", stage) for f in FILES for name, stage in yaml.safe_load(f.read_text())["stages"].items()}
MADE_OF = ("pkg/advebm/evaluation/", "pkg/advebm/energy.py", "pkg/advebm/toy2d.py", "pkg/advebm/training.py")
NOT_ENTERED = ("config", "tracking", "figures", "progress", "state", "networks", "methods", "data")


def file(module):
    path = Path("pkg", *module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"


def imported(module):
    """The project's modules that this one imports, whether at its top or in a function."""
    for node in ast.walk(ast.parse(file(module).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "advebm":
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                yield name if file(name).is_file() else node.module


def reached(module):
    """Files of all modules that a command comes to."""
    found, ahead = set(), [module]
    while ahead:
        module = ahead.pop()
        if module not in found:
            found.add(module)
            ahead += [] if module.split(".")[1] in NOT_ENTERED else imported(module)
    return {file(module).as_posix() for module in found}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_depends_on_its_script_and_on_what_makes_its_numbers(name):
    script = STAGES[name]["cmd"].split()[1]
    assert script in STAGES[name]["deps"]
    if name not in ("check", "report", "compare"):  # which make no numbers
        needed = {path for path in reached(f"advebm.commands.{Path(script).stem}") if path.startswith(MADE_OF)}
        assert needed <= set(STAGES[name]["deps"])


def test_training_depends_on_every_sampler_that_a_method_has():
    methods = [path.stem for path in Path("pkg/advebm/methods").glob("*.py")]
    needed = {file(name).as_posix() for method in methods for name in imported(f"advebm.methods.{method}")}
    samplers = {path for path in needed if path.startswith("pkg/advebm/samplers/")}
    assert samplers and samplers <= set(STAGES["train"]["deps"])
