"""Whether generated images have collapsed."""

import numpy as np

from advebm.ranges import COLLAPSED, CORNERS

MANY = 10_000  # images that are compared


def collapsed(x: np.ndarray, data: np.ndarray) -> list[str]:
    """Signs that generated images have collapsed, compared with images of the data; both uint8 (N, H, W, C). Of each, the
    first MANY are compared."""
    x, data = x[:MANY], data[:MANY]
    distinct = len({image.tobytes() for image in x})
    spread, usual = x.std(0).mean(), data.std(0).mean()
    inside, within = (((own > 0) & (own < 255)).mean() for own in (x, data))
    signs = {
        f"only {distinct} of {len(x)} images are distinct": distinct < len(x) / 2,
        f"the images are nearly the same: their pixels deviate by {spread:.3g}, the data's by {usual:.3g}": (
            spread < COLLAPSED * usual
        ),
        f"the images are saturated: {inside:.4f} of their pixels are neither 0 nor 255, of the data's {within:.4f}": (
            inside < CORNERS * within
        ),
    }
    return [sign for sign, holds in signs.items() if holds]
