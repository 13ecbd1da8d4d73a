"""Pictures; arrays of images are uint8 (N, H, W, C). Those of measurements are in reports/ and use canvas.py too."""

from advebm.figures.plots import curves, landscapes, series, steps
from advebm.figures.tiles import class_grid, grid, sheets, strip

__all__ = ["class_grid", "curves", "grid", "landscapes", "series", "sheets", "steps", "strip"]
