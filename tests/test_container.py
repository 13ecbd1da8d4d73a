"""The container file and the dev container agree with the Makefile, pyproject.toml and the tree."""

import json
import re
import tomllib
from pathlib import Path

CONTAINER = Path("Containerfile").read_text()
PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
DEV = json.loads(Path(".devcontainer/devcontainer.json").read_text())


def test_it_installs_what_the_makefile_installs():
    made = re.findall(r"pip install --quiet (-c .+)", Path("Makefile").read_text())
    theirs = re.findall(r'pip install --no-cache-dir (?:--index-url "\$TORCH" )?(-c [^&\n]+\S)', CONTAINER)
    # torchvision too comes from PyTorch's index: that of PyPI does not work with a torch for CPUs
    assert theirs == [made[0] + " torchvision", made[1].replace("[dev]", "[$EXTRA]")]
    extra = re.search(r"ARG EXTRA=(\w+)", CONTAINER)[1]
    assert {extra, DEV["build"]["args"]["EXTRA"]} == {"pipeline", "dev"} <= set(PROJECT["optional-dependencies"])


def test_its_python_is_the_oldest_that_is_supported():
    assert PROJECT["requires-python"] == ">=" + re.search(r"^FROM \S+/python:(\d+\.\d+)-slim", CONTAINER, re.M)[1]


def test_what_it_copies_is_there_and_suffices_for_the_installation():
    copied = {line[1:] for line in Path(".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert all(Path(name).exists() for name in copied)
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "constraints.txt", "pkg"} <= copied
    assert {"dvc.yaml", "params.yaml", "stages"} <= copied, "stages/away.sh runs without a mounted tree"


def test_the_dev_container_is_this_image_with_the_tree_in_its_place():
    build, folder = DEV["build"], Path(".devcontainer")
    assert (folder / build["dockerfile"]).samefile("Containerfile") and (folder / build["context"]).samefile(".")
    assert DEV["workspaceFolder"] == re.search(r"^WORKDIR (\S+)", CONTAINER, re.M)[1]
    user, uid = DEV["remoteUser"], re.search(r"^USER (\d+)", CONTAINER, re.M)[1]
    assert re.search(rf"useradd .*--uid {uid} .*\b{user}\b", CONTAINER)
