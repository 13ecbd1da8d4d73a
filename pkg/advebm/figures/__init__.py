"""Pictures. The only folder that knows matplotlib. Arrays of images are uint8 (N, H, W, C)."""

from advebm.figures.plots import curves, detection, landscapes, radius, reliability, series, steps, surfaces
from advebm.figures.tiles import class_grid, grid, nearest, rows, sheets, strip

__all__ = ["class_grid", "curves", "detection", "grid", "landscapes", "nearest", "radius", "reliability", "rows"]
__all__ += ["series", "sheets", "steps", "strip", "surfaces"]
