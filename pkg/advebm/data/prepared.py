"""What the stage `prepare` wrote about its images."""

from pathlib import Path
from typing import Any

from advebm.runtime.disk import read_json


def about(data: Path) -> dict[str, Any]:
    """Shape, classes, numbers of images by file, and digest. Raises ValueError for an incomplete file."""
    content = read_json(data / "about.json", "prepare")
    for key in ("shape", "classes", "images", "sha256"):
        if key not in content:
            raise ValueError(f"{data / 'about.json'}: lacks {key}; run `advebm prepare` again")
    return content
