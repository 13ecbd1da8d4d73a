"""Detection of out-distribution images: AUC and false positive rate of each score, and of the detector's own in the worst
case; scores.py has that of the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from advebm.data.images import Images, to_bytes
from advebm.energy import CLASS_SCORES, SCORES, marginal, passing, scores
from advebm.evaluation import intervals
from advebm.evaluation.attacks import Attacks
from advebm.evaluation.result import Interval, Named
from advebm.evaluation.smoothed import sharpening
from advebm.evaluation.subject import Subject
from advebm.networks import Network, device
from advebm.networks.passes import Passes, View, convolving
from advebm.ranges import Count, Positive, Several
from advebm.runtime import ranks
from advebm.runtime.parts import BATCH, SEED, Part, anew
from advebm.samplers.norms import NORMS
from advebm.samplers.pgd import pgd
from advebm.samplers.streams import Streams

MOMENTUM = 0.75  # of attacks
FOUND = 0.005  # an attack ends after two rounds that together lower the AUC by less
FIRST, LAST = (5.0, 5.0, 20.0), (30.0, 100.0, 300.0)  # sharpness of kinks for `grad_norm`: of each kind of descent, in turn
NEAR = 0.1  # of the radius: how far from the best point found so far its refinement begins
SHOWN = 12  # images of each set that the picture of the most convincing ones shows


@dataclass(kw_only=True)
class Descents:
    """A round of the attack: steps of each descent, and descents."""

    steps: Count = 100
    restarts: Count = 5


@dataclass(kw_only=True)
class Cheaper:
    """Numbers of Ood for a method whose gradients cost much more than those of the others."""

    n: Several
    attacked: Several
    attack: Descents = field(default_factory=Descents)
    rounds: Count = 1


@dataclass(kw_only=True)
class Attacking:
    """At most n images per side, and how out-distribution images are moved to where a score takes them for data."""

    n: Several = 1024
    attacked: Several | None = None  # out-distribution images in the worst case, the first; null: all n
    split: Literal["validation", "test"] = "test"  # the in-distribution images; tune with validation
    attack: Descents = field(default_factory=Descents)  # see `worst_case`
    rounds: Count = 10  # at most, at the largest radius; one at each smaller radius
    cheaper: dict[str, Cheaper] = field(default_factory=dict)  # by method, instead of the numbers above

    def of(self, method: str) -> Self:
        """The numbers for that method."""
        return replace(self, **vars(self.cheaper[method])) if method in self.cheaper else self


@dataclass(kw_only=True)
class Ood(Attacking):
    """The worst case of the detector's own score, within each radius in turn."""

    radii: Annotated[dict[Literal["l2", "linf"], Annotated[list[Positive], MinLen(1)]], MinLen(1)]  # increasing
    attacks: Attacks | None = None  # published ones, to stand beside; null: none

    def __post_init__(self):
        for norm, radii in self.radii.items():
            if radii != sorted(radii):
                raise ValueError(f"ood.radii.{norm}: {radii} must increase: each radius starts from the result of the last")

    def measure(self, subject: Subject, part: Part) -> "tuple[OodResult, dict[str, dict[str, np.ndarray]]]":
        inside, outside, bar = subject.images(self.split), subject.outside, subject.bar("ood")
        net, detector, spec = subject.net, subject.detector, self.of(subject.method)
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
    rounds: list[float]  # the AUC after each round of the attack, see `ended`
    n: int  # attacked images


@dataclass(kw_only=True)
class Attacked(Detection):
    """Detection after one attack within the largest radius of the first norm."""

    norm: str
    eps: float
    attack: str  # name and numbers
    n: int  # attacked images


@dataclass(kw_only=True)
class Scored(Detection):
    """Detection by one score."""

    worst: dict[str, WorstCase] = field(default_factory=dict)  # by norm, within its largest radius; {}: not attacked
    attacks: dict[str, Attacked] = field(default_factory=dict)  # of the same images, see `beside`


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
    n: int  # images per side: at most the study's n and the size of the smaller side; attacked ones are fewer
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
    return float((scores_out >= passing(scores_in)).mean())


def detection(s_in: np.ndarray, s_out: np.ndarray) -> dict[str, Any]:
    """The fields of Detection."""
    return {"auc": auc(s_in, s_out), "auc_ci": intervals.auc(s_in, s_out), "fpr95": fpr95(s_in, s_out)}


def ended(aucs: list[float], most: int) -> bool:
    """Whether rounds of an attack end: after `most`, or where the last two together lowered the AUC by less than FOUND."""
    return len(aucs) > most or (len(aucs) > 2 and aucs[-3] - aucs[-1] < FOUND)


def worst_case(
    f: View,
    score: str,
    x: Tensor,
    start: Tensor,
    inside: Tensor,
    attack: Descents,
    *,
    eps: float,
    norm: str,
    rounds: int,
    seed: int,
    batch: int,
) -> dict[str, Tensor]:
    """x: images (N, C, H, W) within eps of x that the score takes for in-distribution, none with a lower score than in
    `start`; aucs: the AUC against `inside` before and after each round of the attack.

    A round is `restarts` descents with momentum, by steps that shorten to 0, of three kinds in turn; those of one kind are
    made at once. The first descends the score from a random point (once from `start`), by steps of length eps / 2. The
    second begins on the way from x to one of the in-distribution images with the highest scores and, as in the targeted
    attack of Croce and Hein (2020), descends the score of a class, in the order of the logits at x, if the score has
    classes. The third refines the best point found so far, by steps of length eps / 8. `grad_norm` is descended in a
    network whose kinks are smooth at first. Only images whose score is below that of all in-distribution images are
    attacked; moving the others changes neither AUC nor FPR.
    """
    energy, ball, scored = SCORES[score](f), NORMS[norm], convolving("fp32")(scores)
    s_in, best = scored(energy, inside, batch), start.clone()
    data = inside[torch.from_numpy(np.argsort(-s_in)[: max(len(s_in) // 5, 1)].copy())]
    with torch.no_grad():
        likeliest = torch.cat([f(part) for part in x.split(batch)]).argsort(1, descending=True)

    def descended(kind: int, of: Tensor, turn: Tensor) -> Tensor:
        """The images `of` (M,), each after its descent number `turn` (M,) of that kind."""
        own, streams = x[of], Streams(seed, "ood", norm, kind, ids=(turn << 32) + of)
        aim, length = energy, eps / 2
        if kind == 0:
            drawn = own + ball.random_start(own.shape, eps, streams)
            begin = torch.where((turn > 0).view(-1, 1, 1, 1), drawn, best[of])
        elif kind == 1:
            begin = own + ball.project(data[streams.integers(len(data))] - own, eps)
            if score in CLASS_SCORES:
                aim = CLASS_SCORES[score](f, likeliest[of, turn % likeliest.shape[1]])
        else:
            begin, length = best[of] + ball.random_start(own.shape, NEAR * eps, streams), eps / 8
        if score == "grad_norm":
            aim = sharpening(f, steps=attack.steps, first=FIRST[kind], last=LAST[(len(aucs) - 1) % len(LAST)])
        return pgd(
            aim,
            own,
            start=begin,
            steps=attack.steps,
            step_size=length,
            eps=eps,
            norm=norm,
            momentum=MOMENTUM,
            annealed=True,
            best=score != "grad_norm",  # that aim differs from step to step, so its values do not compare
        )

    s = torch.from_numpy(scored(energy, best, batch)).to(x.device)
    aucs, restarts = [auc(s_in, s.cpu().numpy())], attack.restarts
    while not ended(aucs, rounds):
        descents = range((len(aucs) - 1) * restarts, len(aucs) * restarts)
        for kind in range(3):
            turns = torch.tensor([r // 3 for r in descents if r % 3 == kind], dtype=torch.long, device=x.device)
            left = (s < float(s_in.max())).nonzero()[:, 0]
            jobs = torch.cartesian_prod(left, turns)
            if not len(jobs):
                continue
            new = torch.cat([descended(kind, *part.T) for part in jobs.split(batch)])
            s_new, which = torch.from_numpy(scored(energy, new, batch)).to(s).view(len(left), -1).max(1)
            better = s_new > s[left]
            new = new.view(len(left), len(turns), *x.shape[1:])[torch.arange(len(left), device=x.device), which]
            best[left[better]], s[left[better]] = new[better], s_new[better]
        aucs.append(auc(s_in, s.cpu().numpy()))
    return {"x": best, "aucs": torch.tensor(aucs, dtype=torch.float64)}


def beside(norm: str, eps: float, s_in: np.ndarray, s: dict[str, np.ndarray], spec: Attacks) -> dict[str, Attacked]:
    """Detection after each attack: `descents`, ours; those published; and `all`, the strongest of these on each image. s_in
    and s are the scores of the test images (N,), and of the attacked images (M,) after each attack."""
    names = {"descents": "descents, ours", **spec.names(), "all": "all, the strongest of these on each image"}
    s = s | {"all": np.max(list(s.values()), 0)}
    return {
        key: Attacked(**detection(s_in, after), norm=norm, eps=eps, attack=names[key], n=len(after))
        for key, after in s.items()
    }


def convincing(net: Network, x: Tensor, worst: Tensor, s: np.ndarray, s_worst: np.ndarray) -> dict[str, np.ndarray]:
    """The attacked images with the highest scores, uint8 (K, H, W, C), before and after the attack, in `before` and
    `after`; their scores; and, for a network with classes, the class that it sees in each."""
    first = np.argsort(-s_worst, kind="stable")[:SHOWN]
    chosen = torch.from_numpy(first).to(x.device)
    found = {"before": to_bytes(x[chosen]), "after": to_bytes(worst[chosen])}
    found |= {"score before": s[first], "score after": s_worst[first]}
    for key, z in (("before", x), ("after", worst)) if net.outputs > 1 else ():
        with torch.no_grad():
            found[f"class {key}"] = net(z[chosen]).argmax(1).cpu().numpy()
    return found


def attacked(
    net: Network,
    score: str,
    x_in: Tensor,
    x_out: Tensor,
    radii: Mapping[Any, list[float]],
    spec: Attacking,
    attacks: Attacks | None,
    *,
    name: str,
    seed: int,
    batch: int,
    part: Part,
) -> tuple[Scored, dict[str, AucCurve], dict[str, Tensor]]:
    """Detection of a set by a score, standard and in the worst case by norm within increasing radii; the AUC against the
    radius; and the moved images, by norm. x_in, x_out: (N, C, H, W), of which the first `spec.attacked` are moved; attacks:
    published ones; name: that of the parts that are saved."""
    passes = Passes("tf32")  # without CUDA graphs: batches shrink as images pass, and graphs have no second derivatives
    energy, x = SCORES[score](net), x_out[: spec.attacked]
    s_in, s_out = scores(energy, x_in, batch), scores(energy, x_out, batch)
    entry, curves, worst = Scored(**detection(s_in, s_out)), dict[str, AucCurve](), dict[str, Tensor]()
    for norm in radii:
        worst[norm], curves[norm] = x, AucCurve(eps=[0.0, *radii[norm]], auc=[auc(s_in, s_out[: len(x)])])
        for eps in radii[norm]:
            rounds = spec.rounds if eps == radii[norm][-1] else 1
            with passes.sampling(net) as f:
                given: dict[str, Any] = {"eps": eps, "norm": norm, "rounds": rounds, "seed": seed, "batch": batch}
                attack = partial(worst_case, f, score, x, worst[norm], x_in, spec.attack, **given)
                found = part(f"{name}, {norm} {eps}, {batch} at a time", attack)
            worst[norm] = found["x"].to(x.device)
            s_worst = scores(energy, worst[norm], batch)
            curves[norm].auc.append(auc(s_in, s_worst))
        reached = found["aucs"].tolist()[1:]
        entry.worst[norm] = WorstCase(
            eps=eps,
            **detection(s_in, s_worst),
            attack=f"pgd with momentum, {spec.attack.steps} steps, {spec.attack.restarts * len(reached)} restarts",
            rounds=reached,
            n=len(x),
        )
    if attacks:
        norm, eps = next((norm, radii[norm][-1]) for norm in radii)
        x, name = x[: attacks.n], f"{name}, {norm} {eps}, {batch} at a time"
        given = {"eps": eps, "norm": norm, "seed": seed, "batch": batch}
        with passes.sampling(net) as f:
            after = {
                "descents": worst[norm][: len(x)],
                **attacks.moved(SCORES[score](f), x, name=name, part=part, **given),
            }
        s_after = {key: scores(energy, z, batch) for key, z in after.items()}
        entry.attacks = beside(norm, eps, s_in, s_after, attacks)
    return entry, curves, worst


def others(net: Network, detector: str) -> list[str]:
    """The scores of a network besides its detector's own; with one logit there is no softmax, and the logit is -E(x)."""
    return [name for name in SCORES if name != detector and (net.outputs > 1 or name in ("energy", "grad_norm"))]


def sides(inside: Images, outside: Images, n: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """As many images of both, at most n."""
    n = min(n, len(inside.x), len(outside.x))
    return inside[:n].pixels(device), outside[:n].pixels(device)


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

    The scores are {set: {in, out, worst}}, the detector's; with "energy " before the key, -E(x) of the same images; and the
    arrays of `convincing`.
    """

    def measured(name: str) -> tuple[SetDetection, dict[str, np.ndarray]]:
        """Detection of a set, and the scores behind it."""
        x_in, x_out = sides(inside, outside[name], spec.n, device)
        given: dict[str, Any] = {"seed": seed, "batch": batch, "part": part}
        given["name"] = f"{name}, {detector}"
        own, curves, worst = attacked(net, detector, x_in, x_out, spec.radii, spec, spec.attacks, **given)
        standard = {score: [scores(SCORES[score](net), x, batch) for x in (x_in, x_out)] for score in others(net, detector)}
        hardest = own.worst[next(iter(spec.radii))]
        found = SetDetection(
            auc=own.auc,
            auc_ci=own.auc_ci,
            fpr95=own.fpr95,
            auc_worst=hardest.auc,
            fpr95_worst=hardest.fpr95,
            auc_worst_ci=hardest.auc_ci,
            n=len(x_in),
            score=detector,
            scores={detector: own, **{score: Scored(**detection(*both)) for score, both in standard.items()}},
            curves=curves,
        )
        moved = worst[next(iter(spec.radii))]
        images = {"in": x_in, "out": x_out, "worst": moved}
        behind = {key: scores(SCORES[detector](net), x, batch) for key, x in images.items()}
        behind |= convincing(net, x_out[: len(moved)], moved, behind["out"][: len(moved)], behind["worst"])
        return found, behind | {f"energy {key}": scores(marginal(net), x, batch) for key, x in images.items()}

    made = dict(zip(outside, ranks.spread(measured, list(outside), progress), strict=True))
    return OodResult(named={name: found for name, (found, _) in made.items()}), {name: s for name, (_, s) in made.items()}
