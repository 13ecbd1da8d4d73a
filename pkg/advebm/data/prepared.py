"""What `prepare` wrote."""

from pathlib import Path
from typing import Any

from advebm.runtime.disk import read_json


def about(data: Path) -> dict[str, Any]:
    """What `prepare` wrote of its images: shape, classes, digest."""

    content = read_json(data / "about.json", "prepare")
    for key in ("shape", "classes", "sha256"):
        if key not in content:
            raise ValueError(f"{data / 'about.json'}: lacks {key}; run `advebm prepare` again")
    return content
