"""Detection of out-distribution images: AUC and false positive rate of each score, standard and in the worst case."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from advebm.data.images import Images
from advebm.energy import SCORES, Energy, marginal
from advebm.evaluation import intervals
from advebm.evaluation.fisher import piecewise_linear
from advebm.evaluation.result import Interval, Named
from advebm.evaluation.square import square
from advebm.evaluation.subject import Subject
from advebm.networks import Network, device
from advebm.networks.passes import Passes, convolving
from advebm.ranges import Count, Positive
from advebm.runtime import ranks
from advebm.runtime.parts import BATCH, SEED, Part, anew
from advebm.samplers.apgd import AutoPGD
from advebm.samplers.streams import Streams

Score = Literal["energy", "max_softmax", "grad_norm", "logit"]


@dataclass(kw_only=True)
class Ood:
    """At most n images per side. In the worst case each out-distribution image is moved, within each radius in turn, to
    where the score takes it for in-distribution; each score is attacked separately."""

    n: Count = 1024
    n_of: dict[str, Count] = field(default_factory=dict)  # by method, instead of n, where gradients cost much more
    split: Literal["validation", "test"] = "test"  # the in-distribution images; tune with validation
    scores: list[Score] = field(default_factory=lambda: list(get_args(Score)))  # besides the detector's own
    radii: Annotated[dict[Literal["l2", "linf"], Annotated[list[Positive], MinLen(1)]], MinLen(1)]  # increasing
    attack: AutoPGD = field(default_factory=AutoPGD)
    queries: Count = 5000  # of the Square attack, used where a score has no gradient

    def __post_init__(self):
        for norm, radii in self.radii.items():
            if radii != sorted(radii):
                raise ValueError(f"ood.radii.{norm}: {radii} must increase: each radius starts from the result of the last")

    def measure(self, subject: Subject, part: Part) -> "tuple[OodResult, dict[str, dict[str, np.ndarray]]]":
        spec = replace(self, n=self.n_of.get(subject.method, self.n))
        inside, outside, bar = subject.images(self.split), subject.outside, subject.bar("ood")
        net, detector = subject.net, subject.detector
        return ood(net, detector, inside, outside, spec, seed=SEED, device=device(), part=part, progress=bar)


@dataclass(kw_only=True)
class Detection:
    """Of test images against an out-distribution set, by a score: the area under the ROC curve, and the share of
    out-distribution images that pass where 95% of test images do."""

    auc: float
    auc_ci: Interval | None = None
    fpr95: float


@dataclass(kw_only=True)
class WorstCase:
    """Detection when each out-distribution image is moved within the radius to where the score takes it for data."""

    eps: float
    auc: float
    auc_ci: Interval | None = None
    fpr95: float
    attack: str  # name and numbers of the attack


@dataclass(kw_only=True)
class Scored(Detection):
    """Detection by one score."""

    worst: dict[str, WorstCase]  # by norm, within its largest radius


@dataclass(kw_only=True)
class AucCurve:
    """The AUC in the worst case at each radius."""

    eps: list[float]
    auc: list[float]


@dataclass(kw_only=True)
class SetDetection(Detection):
    """Detection of a set by the detector's own score; the worst case is at the largest radius of the first norm."""

    auc_worst: float
    fpr95_worst: float
    auc_worst_ci: Interval | None = None
    n: int  # images per side: at most the study's n and the size of the smaller side
    score: str  # the detector's own
    scores: dict[str, Scored]
    curves: dict[str, AucCurve]  # of the detector's score, by norm


@dataclass(kw_only=True)
class OodResult(Named):
    """By out-distribution set."""

    named: dict[str, SetDetection]


def auc(scores_in: np.ndarray, scores_out: np.ndarray) -> float:
    """P(in > out) + P(tie) / 2, the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    truth = np.r_[np.ones(len(scores_in)), np.zeros(len(scores_out))]
    return float(roc_auc_score(truth, np.r_[scores_in, scores_out]))


def fpr95(scores_in: np.ndarray, scores_out: np.ndarray) -> float:
    """The share of out images that pass where 95% of the in images do (Hendrycks et al. 2018)."""
    threshold = np.sort(scores_in)[len(scores_in) - int(np.ceil(0.95 * len(scores_in)))]
    return float((scores_out >= threshold).mean())


@torch.no_grad()
def scores(energy: Energy, x: Tensor, batch: int) -> np.ndarray:
    """-E(x), (N,): high is in-distribution."""
    return -torch.cat([energy(part).detach() for part in x.split(batch)]).double().cpu().numpy()


def detection(s_in: np.ndarray, s_out: np.ndarray) -> dict[str, Any]:
    """The fields of Detection."""
    return {"auc": auc(s_in, s_out), "auc_ci": intervals.auc(s_in, s_out), "fpr95": fpr95(s_in, s_out)}


def worst_case(
    energy: Energy,
    x: Tensor,
    start: Tensor,
    spec: Ood,
    *,
    eps: float,
    norm: str,
    flat: bool,
    floor: float,
    seed: int,
    batch: int,
) -> Tensor:
    """Images within eps of x that the score takes for in-distribution; no image has a lower score than in `start`.

    Auto-PGD on the energy; where that is `flat`, the Square attack, which stops at images with an energy below `floor`.
    """
    if not flat:
        parts = [slice(begin, begin + batch) for begin in range(0, len(x), batch)]
        ids = torch.arange(len(x), device=x.device)
        streams = [Streams(seed, "ood", norm, ids=ids[part]) for part in parts]
        moved = [
            spec.attack(energy, x[part], own, eps=eps, norm=norm, start=start[part])
            for part, own in zip(parts, streams, strict=True)
        ]
        return torch.cat(moved)
    found = square(energy, x, eps=eps, norm=norm, queries=spec.queries, floor=floor, seed=seed, batch=batch)
    lower = scores(energy, found, batch) > scores(energy, start, batch)
    return torch.where(torch.from_numpy(lower).to(x.device).view(-1, 1, 1, 1), found, start)


@convolving("fp32")
def ood(
    net: Network,
    detector: str,
    inside: Images,
    outside: dict[str, Images],
    spec: Ood,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
    part: Part = anew,
    progress: Callable = iter,
) -> tuple[OodResult, dict[str, dict[str, np.ndarray]]]:
    """The result, and the scores that it is computed from (Yin, Li and Rohde 2022, Table 4). Only out-distribution images
    are attacked.

    The scores are {set: {in, out, worst}}, the detector's; with "energy " before the key, -E(x) of the same images.
    """
    names = [detector, *(score for score in spec.scores if score != detector)]
    if net.outputs == 1:
        names = [name for name in names if name in ("energy", "grad_norm")]
    passes = Passes.on(device)
    flat = piecewise_linear(net)  # then grad_norm has no gradient, except through the softmax weights

    def measured(job: tuple[str, str]) -> tuple[Scored, int, dict[str, AucCurve], dict[str, np.ndarray]]:
        """Detection of a set by a score, and n; for the detector's score also the curves and the scores themselves."""
        set_name, score = job
        n = min(spec.n, len(inside.x), len(outside[set_name].x))
        x_in, x_out = inside[:n].pixels(device), outside[set_name][:n].pixels(device)
        energy = SCORES[score](net)
        s_in, s_out = scores(energy, x_in, batch), scores(energy, x_out, batch)
        entry = Scored(**detection(s_in, s_out), worst={})
        curves: dict[str, AucCurve] = {}
        worst: dict[str, Tensor] = {}
        queried = flat and score == "grad_norm"
        own = Passes() if score == "grad_norm" else passes  # CUDA graphs have no second derivatives
        for norm, radii in spec.radii.items():
            worst[norm] = x_out
            curves[norm] = AucCurve(eps=[0.0, *radii], auc=[entry.auc])
            for eps in radii if score == detector else radii[-1:]:
                with own.sampling(net) as f:
                    attack = partial(
                        worst_case,
                        SCORES[score](f),
                        x_out,
                        worst[norm],
                        spec,
                        eps=eps,
                        norm=norm,
                        flat=queried,
                        floor=-s_in.max(),
                        seed=seed,
                        batch=batch,
                    )
                    worst[norm] = part(f"{set_name}, {score}, {norm} {eps}, {batch} at a time", attack).to(x_out.device)
                s_worst = scores(energy, worst[norm], batch)
                curves[norm].auc.append(auc(s_in, s_worst))
            gradients = f"apgd, {spec.attack.steps} steps, {spec.attack.restarts} restarts"
            attacked = f"square, {spec.queries} queries" if queried else gradients
            entry.worst[norm] = WorstCase(eps=eps, **detection(s_in, s_worst), attack=attacked)
        if score != detector:
            return entry, n, {}, {}
        images = {"in": x_in, "out": x_out, "worst": next(iter(worst.values()))}
        behind = {key: scores(energy, x, batch) for key, x in images.items()}
        behind |= {f"energy {key}": scores(marginal(net), x, batch) for key, x in images.items()}
        return entry, n, curves, behind

    jobs = [(set_name, score) for score in names for set_name in outside]  # the detector's first, as they take longest
    found: dict[str, SetDetection] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    for (set_name, score), (entry, n, curves, behind) in zip(jobs, ranks.spread(measured, jobs, progress), strict=True):
        if score == detector:
            values[set_name] = behind
            hardest = next(iter(entry.worst.values()))
            found[set_name] = SetDetection(
                auc=entry.auc,
                auc_ci=entry.auc_ci,
                fpr95=entry.fpr95,
                auc_worst=hardest.auc,
                fpr95_worst=hardest.fpr95,
                auc_worst_ci=hardest.auc_ci,
                n=n,
                score=detector,
                scores={},
                curves=curves,
            )
        found[set_name].scores[score] = entry
    return OodResult(named=found), values
