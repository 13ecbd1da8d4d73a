"""Binary adversarial training in two dimensions (Yin, Li and Rohde 2022, Figure 1).

The data is a Gaussian at the centre of the unit square; out-distribution points are uniform on the square or in a corner
of it. D tends to 1/2 on the data. Where no ascent from the corner arrives, D is untrained and has spurious maxima.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from advebm.data.batches import Batch
from advebm.energy import grad, marginal
from advebm.methods.at_ebm import ATEBM
from advebm.methods.base import Context
from advebm.networks.wrn import Classifier, Head, Stem
from advebm.ranges import Count, Positive
from advebm.samplers.streams import Streams

GRID = 41  # points per side of the grid on which D is shown


@dataclass(kw_only=True)
class Toy2d:
    """Points are in [0, 1]^2."""

    deviation: Positive  # of the data, whose mean is (1/2, 1/2)
    out: dict[str, Annotated[float, Gt(0), Le(1)]]  # {name: side}: out-distribution points are uniform on [0, side]^2
    hidden: Count  # units of each of the two hidden layers
    steps: Count
    batch: Count
    lr: Positive  # of Adam, falling linearly to 0
    method: ATEBM


def toy2d(spec: Toy2d, side: float, *, seed: int) -> dict[str, Any]:
    """Train D by `spec.method`; {start, end: {D (GRID, GRID), field (GRID, GRID, 2)}, near, far}.

    D[i, j] and field, the gradient of f, are taken at (j, i) / (GRID - 1). near is the mean of |D - 1/2| within two
    standard deviations of the data's mean, far the largest D beyond four. Points are images of two channels and one pixel.
    """
    torch.manual_seed(seed)
    h = spec.hidden
    trunk = nn.Sequential(nn.Linear(2, h), nn.SiLU(), nn.Linear(h, h), nn.SiLU())
    net = Classifier(spec, (2, 1, 1), 1, Stem(nn.Flatten()), trunk, Head(h, 1))
    spec.method.begin(Context(seed, (2, 1, 1), 1, None, "cpu"))
    optimizer = torch.optim.Adam(net.parameters(), spec.lr, betas=(0.0, 0.99))  # as Yin, Li and Rohde 2022
    start = landscape(net)
    for step in range(spec.steps):
        streams = Streams(seed, "toy2d", step, ids=torch.arange(spec.batch))
        x = 0.5 + spec.deviation * streams.normal(2, 1, 1)
        x_out = side * streams.uniform(2, 1, 1)
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * (1 - step / spec.steps)
        loss = spec.method.loss(net, Batch(x, torch.zeros(spec.batch), x_out), step)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    end = landscape(net)
    distance = (points().flatten(1) - 0.5).norm(dim=1).view(GRID, GRID) / spec.deviation
    near = (end["D"][distance < 2] - 0.5).abs().mean().item()
    return {"start": start, "end": end, "near": near, "far": end["D"][distance > 4].max().item()}


def points() -> Tensor:
    """The grid as (GRID^2, 2, 1, 1), row by row."""
    side = torch.linspace(0, 1, GRID)
    return torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).view(-1, 2, 1, 1)


def landscape(net: nn.Module) -> dict[str, Tensor]:
    """D and the gradient of f on the grid."""
    with torch.no_grad():
        d = net(points()).sigmoid()
    return {"D": d.view(GRID, GRID), "field": -grad(marginal(net), points()).view(GRID, GRID, 2)}
