"""Detection of out-distribution images by the model's energy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from advebm.data.images import Images
from advebm.energy import Energy
from advebm.ranges import Count
from advebm.samplers.pgd import Attack
from advebm.samplers.streams import Streams


@dataclass(kw_only=True)
class Ood:
    """At most n images a side; in the worst case each out image is moved by `attack` to where the energy is low."""

    n: Count = 1024
    split: Literal["validation", "test"] = "test"  # the in-distribution images; tune with validation
    attack: Attack


def auc(scores_in: np.ndarray, scores_out: np.ndarray) -> float:
    """P(in > out) + P(tie) / 2, the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.ones(len(scores_in)), np.zeros(len(scores_out))]
    return float(roc_auc_score(truth, np.r_[scores_in, scores_out]))


@torch.no_grad()
def scores(energy: Energy, x: Tensor, batch: int) -> np.ndarray:
    """-E(x), (N,): high is in-distribution."""
    return -torch.cat([energy(part) for part in x.split(batch)]).double().cpu().numpy()


def worst_case(energy: Energy, x: Tensor, attack: Attack, *, seed: int, batch: int) -> Tensor:
    """Each image x, or its image after the attack on the energy where that looks more in-distribution."""
    moved = []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        streams = Streams(seed, "ood", ids=torch.arange(start, start + len(part), device=x.device))
        attacked = attack(energy, part, streams)
        with torch.no_grad():
            better = energy(attacked) < energy(part)
        moved.append(torch.where(better.view(-1, 1, 1, 1), attacked, part))
    return torch.cat(moved)


def ood(
    energy: Energy,
    inside: Images,
    outside: dict[str, Images],
    spec: Ood,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    batch: int = 500,
    progress: Callable = iter,
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """{set: {auc, auc_worst, n}} and {set: {in, out, worst}} with the scores themselves (AE, Table 4).

    Only out images are attacked. n is the number of images a side: the smaller of what the two sides have and spec.n.
    """
    numbers, values = {}, {}
    for name in progress(list(outside)):
        n = min(spec.n, len(inside.x), len(outside[name].x))
        x_in, x_out = inside[:n].pixels(device), outside[name][:n].pixels(device)
        worst = worst_case(energy, x_out, spec.attack, seed=seed, batch=batch)
        s = {key: scores(energy, x, batch) for key, x in (("in", x_in), ("out", x_out), ("worst", worst))}
        numbers[name] = {"auc": auc(s["in"], s["out"]), "auc_worst": auc(s["in"], s["worst"]), "n": n}
        values[name] = s
    return numbers, values
