"""The protocol of pytorch-ood (Kirchheim et al. 2022): a detector's outlier scores are high for out-distribution images."""

from pytorch_ood.api import Detector as Base
from torch import Tensor

from advebm.api import Model


class Detector(Base):
    """By the score of a model, which needs no fit. Images are in [0, 1]: leave out the library's `Normalize`."""

    def __init__(self, model: Model):
        self.model, self.net = model, model.net  # the library looks for the network's device, and moves it

    def predict(self, x: Tensor) -> Tensor:
        """-score (B,) of images (B, C, H, W). Raises ValueError for images of another shape or range."""
        return -self.model.score(x)
