"""Run a study without DVC, MLflow and git: `advebm away`. First names the packages that are missing or too old."""

import re
import sys
from importlib import metadata
from importlib.util import find_spec

from run import stage

NEEDED = {  # module: its name for pip
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "typer": "typer>=0.29",
    "pydantic": "pydantic",
    "annotated_types": "annotated-types",
    "jsonschema": "jsonschema",
    "filelock": "filelock",
    "safetensors": "safetensors",
    "torch_fidelity": "torch-fidelity>=0.4",
}
SOME = {"jinja2": "compare", "pyautoattack": "autoattack, and ood by queries"}  # module: the stages that fail without it
FLOWS = ("glow", "residual_flow")  # these also need normflows


def missing(methods: list[str]) -> list[str]:
    """The packages that pip must install."""
    needed = NEEDED | ({"normflows": "normflows"} if set(FLOWS) & set(methods) else {})
    return [package for module, package in needed.items() if not found(module, package)]


def found(module: str, package: str) -> bool:
    """Whether the module is installed, in the version that `name>=version` requires."""
    name, _, least = package.partition(">=")
    try:
        if find_spec(module) is None:
            return False
        return not least or numbers(metadata.version(name)) >= numbers(least)
    except ImportError:  # also if the package has no version
        return False


def numbers(version: str) -> list[int]:
    """1.2.dev3 as [1, 2]."""
    return list(map(int, re.match(r"[\d.]*\d", version)[0].split(".")))


if __name__ == "__main__":
    packages = missing(sys.argv[3:])
    if packages:
        command = " ".join(f"'{package}'" for package in packages)
        sys.exit(f"advebm: not installed: {', '.join(packages)}; {sys.executable} -m pip install {command}")
    for module, stages in SOME.items():
        if not found(module, module):
            print(f"advebm: {module} is not installed: {stages} will fail", file=sys.stderr)
    stage("away")
