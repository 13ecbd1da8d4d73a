"""JEM: a classifier that is trained as an energy-based model too (Grathwohl et al. 2020)."""

from dataclasses import dataclass
from typing import Literal

from advebm.methods.base import JointMethod
from advebm.samplers.sgld import Langevin


@dataclass(kw_only=True)
class JEM(JointMethod):
    """min CE(x, y) + p_x (E(x+) - E(x~)), x~ by SGLD on E(x) from U(0, 1) (Algorithm 1).

    x+ is x; with `positives: other` images drawn apart from those with classes, as released; with `plain` the images
    without augmentation (Yang et al. 2023, SADA-JEM).
    """

    sampler: Langevin
    positives: Literal["augmented", "plain", "other"] = "augmented"
