"""Files of tensors (safetensors) with a description in JSON and the sha256 of both. It is checked when they are read, as
DVC takes files from its cache unread: one that is "up to date" may be damaged."""

import hashlib
import json
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from advebm.runtime import disk


def write(path: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> None:
    """Write the tensors and what is to be known about them."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = json.dumps(about | {"sha256": _digest(content, about)}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write(path, save(content, {"advebm": header}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises ValueError where it was altered, and other errors for other files. A model of an
    earlier version has no sha256; it is read with a warning."""
    tensors, header = load_file(path), about(path)
    expected = header.pop("sha256", None)
    if expected is None:
        _warn(path)
    elif expected != _digest(tensors, header):
        raise ValueError("its content was altered, its sha256 is another")
    return tensors, header


def about(path: Path) -> dict[str, Any]:
    """The description, with the sha256, without reading the tensors."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "advebm" not in metadata:
        raise ValueError("this version of advebm did not write it")
    return json.loads(metadata["advebm"])


def _digest(tensors: Mapping[str, Tensor], about: dict[str, Any]) -> str:
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@cache
def _warn(path: Path) -> None:
    print(f"advebm: {path}: has no sha256, as of an earlier version: whether it is damaged is unknown", file=sys.stderr)
