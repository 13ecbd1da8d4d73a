"""A study without DVC, MLflow and git: `advebm away`. Says first which of the packages that it needs are missing."""

import sys
from importlib.util import find_spec

from wiring import stage

NEEDED = {  # what is imported, and what pip calls it
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "tqdm": "tqdm",
    "jinja2": "jinja2",
    "typer.exceptions": "typer>=0.29",
    "pydantic": "pydantic",
    "annotated_types": "annotated-types",
    "jsonschema": "jsonschema",
    "filelock": "filelock",
    "safetensors": "safetensors",
    "torch_fidelity": "torch-fidelity",
    "pyautoattack": "pyautoattack",
}
FLOWS = ("glow", "residual_flow")  # which also need normflows


def missing(methods: list[str]) -> list[str]:
    """What pip is to install."""
    needed = NEEDED | ({"normflows": "normflows"} if set(FLOWS) & set(methods) else {})
    return [package for module, package in needed.items() if not found(module)]


def found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:  # of the package that it is in
        return False


if __name__ == "__main__":
    packages = missing(sys.argv[3:])
    if packages:
        command = " ".join(f"'{package}'" for package in packages)
        sys.exit(f"advebm: not installed: {', '.join(packages)}; {sys.executable} -m pip install {command}")
    stage("away")
