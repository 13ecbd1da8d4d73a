"""JEM++: JEM with the m x n sampler and chains from class Gaussians (Yang and Ji 2021)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from advebm.methods.base import JointMethod
from advebm.samplers.proximal import Proximal


@dataclass(kw_only=True)
class JEMPP(JointMethod):
    """JEM's loss, x~ by the m x n sampler on E(x) from class Gaussians (Algorithm 1).

    x+ is x; with `positives: other` images drawn apart from those with classes, as released; with `plain` the images
    without augmentation (Yang et al. 2023, SADA-JEM). With norm `batch`, chains use the statistics of their batch, as
    released (networks/norms.py).
    """

    informed: ClassVar[bool] = True
    sampler: Proximal
    positives: Literal["augmented", "plain", "other"] = "augmented"
