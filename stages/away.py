"""Run a study without DVC, MLflow and git: `advebm away`. First names the packages that are missing or too old."""

import re
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from run import stage

APART = ("dev", "docs", "export", "hub", "mnist")  # extras that the stages of most studies do not need
ELSEWHERE = ("dvc", "mlflow", "pandas", "psutil", "ruamel.yaml.clib")  # packages that only DVC's and MLflow's commands need
VERSIONS = ("typer", "torch-fidelity")  # packages whose older versions do not serve
FLOWS = ("glow", "residual_flow")  # methods that need normflows
SOME = {  # package: the stages that fail without it
    "jinja2": "compare",
    "pyautoattack": "autoattack",
    "scikit-image": "applications",
}
MODULES = {  # of packages of another name
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}


def needed(methods: list[str]) -> list[str]:
    """The requirements of pyproject.toml without which `away` cannot run these methods."""
    project = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
    extras = [texts for extra, texts in project["optional-dependencies"].items() if extra not in APART]
    texts = sorted([*project["dependencies"], *chain(*extras)])
    packages = dict(re.match(r"([\w.-]+)(.*)", text).groups() for text in texts)
    without = {"advebm", *ELSEWHERE, *SOME, *(() if set(FLOWS) & set(methods) else ["normflows"])}
    return [name + least * (name in VERSIONS) for name, least in packages.items() if name not in without]


def found(package: str) -> bool:
    """Whether the package is installed, in the version that `name>=version` requires."""
    name, _, least = package.partition(">=")
    try:
        if find_spec(MODULES.get(name, name.replace("-", "_"))) is None:
            return False
        return not least or numbers(metadata.version(name)) >= numbers(least)
    except ImportError:  # also if the package has no version
        return False


def numbers(version: str) -> list[int]:
    """1.2.dev3 as [1, 2]."""
    return list(map(int, re.match(r"[\d.]*\d", version)[0].split(".")))


if __name__ == "__main__":
    missing = [package for package in needed(sys.argv[3:]) if not found(package)]
    if missing:
        command = " ".join(f"'{package}'" for package in missing)
        sys.exit(f"advebm: not installed: {', '.join(missing)}; {sys.executable} -m pip install {command}")
    for package, stages in SOME.items():
        if not found(package):
            print(f"advebm: {package} is not installed: {stages} will fail", file=sys.stderr)
    stage("away")
