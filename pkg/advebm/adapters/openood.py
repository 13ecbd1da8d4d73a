"""The protocol of OpenOOD (Zhang et al. 2023): a postprocessor's confidences are high for in-distribution images."""

from typing import Any

import torch
from openood.postprocessors import BasePostprocessor
from torch import Tensor, nn

from advebm.api import Model


class Postprocessor(BasePostprocessor):
    """By the score of a model, for `Evaluator(model.net, ...)`. Images are in [0, 1]: the evaluator must be given a
    preprocessor that does not normalise them."""

    APS_mode = False  # there are no hyperparameters to search for

    def __init__(self, model: Model):
        super().__init__(config=None)
        self.model = model

    @torch.no_grad()
    def postprocess(self, net: nn.Module, data: Any) -> tuple[Tensor, Tensor]:
        """The most probable class and the score of each image (B,). Raises ValueError for another shape or range."""
        return net(data).argmax(1), self.model.score(data)
