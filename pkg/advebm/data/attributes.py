"""Attributes of images as labels in place of their classes."""

import numpy as np

from advebm.data.images import Images


def ink(images: Images) -> np.ndarray:
    """The mean of the bytes of each image, (N,): of digits, bright on dark, the weight of their strokes."""
    return images.x.mean((1, 2, 3))


def thirds(train: Images) -> list[float]:
    """The two amounts of ink that divide training images into thirds."""
    return np.quantile(ink(train), [1 / 3, 2 / 3]).tolist()


def by_ink(images: Images, edges: list[float]) -> Images:
    """The images with the labels 0, light, to 2, heavy: how many of the edges are below their ink."""
    return Images(images.x, np.searchsorted(edges, ink(images)).astype(np.int64))
