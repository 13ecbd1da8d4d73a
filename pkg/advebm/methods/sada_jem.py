"""SADA-JEM: JEM without augmentation of p(x), trained by sharpness-aware minimisation (Yang et al. 2023)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from advebm.methods.base import JointMethod
from advebm.samplers.sgld import Langevin


@dataclass(kw_only=True)
class SADAJEM(JointMethod):
    """JEM's loss, x~ by few steps of SGLD on E(x) from class Gaussians (Algorithm 1).

    x+ are the images without augmentation, y has the augmented ones; the released code draws x+ apart from them. The other
    half of the method is `training.optimizer.sam` (sharpness.py): adaptive, as released, with negatives sampled once.
    """

    informed: ClassVar[bool] = True
    sampler: Langevin
    positives: Literal["plain", "augmented"] = "plain"  # augmented: the paper's ablation
