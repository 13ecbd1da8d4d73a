"""Glow, trained by maximum likelihood (Kingma and Dhariwal 2018)."""

from dataclasses import dataclass
from typing import ClassVar

from advebm.methods.base import DensityMethod


@dataclass(kw_only=True)
class Glow(DensityMethod):
    """min -log p(x), x dequantised (Eq. 1-2)."""

    networks: ClassVar = ("glow",)
