"""Pictures. Arrays of images are uint8 (N, H, W, C). Those of a measurement are in reports/, drawn on canvas.py."""

from advebm.figures.plots import curves, landscapes, series, steps
from advebm.figures.tiles import class_grid, grid, sheets, strip

__all__ = ["class_grid", "curves", "grid", "landscapes", "series", "sheets", "steps", "strip"]
