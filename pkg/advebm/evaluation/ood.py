"""Detection of out-distribution images: AUC and false positive rate of each score, standard and in the worst case."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from annotated_types import MinLen
from torch import Tensor

from advebm.data.images import Images, to_bytes
from advebm.energy import CLASS_SCORES, SCORES, marginal, passing, scores
from advebm.evaluation import intervals
from advebm.evaluation.attacks import Attacks, Score
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
class Ood:
    """At most n images per side. In the worst case out-distribution images are moved, within each radius in turn, to where
    the score takes them for in-distribution; each score is attacked separately, the detector's own at all radii, the others
    at the largest of the first norm."""

    n: Several = 1024
    attacked: Several | None = None  # out-distribution images in the detector's worst case, the first; null: all n
    attacked_others: Several | None = None  # and in that of each other score, at most as many; null: as many
    split: Literal["validation", "test"] = "test"  # the in-distribution images; tune with validation
    scores: list[Score] = field(default_factory=lambda: list(get_args(Score)))  # besides the detector's own
    radii: Annotated[dict[Literal["l2", "linf"], Annotated[list[Positive], MinLen(1)]], MinLen(1)]  # increasing
    attack: Descents = field(default_factory=Descents)  # see `worst_case`
    rounds: Count = 10  # at most at the largest radius; one at each smaller radius
    attacks: Attacks | None = None  # published ones, to stand beside; null: none
    cheaper: dict[str, Cheaper] = field(default_factory=dict)  # by method, instead of the numbers above

    def __post_init__(self):
        for norm, radii in self.radii.items():
            if radii != sorted(radii):
                raise ValueError(f"ood.radii.{norm}: {radii} must increase: each radius starts from the result of the last")

    def measure(self, subject: Subject, part: Part) -> "tuple[OodResult, dict[str, dict[str, np.ndarray]]]":
        spec = replace(self, **vars(self.cheaper[subject.method])) if subject.method in self.cheaper else self
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

    worst: dict[str, WorstCase]  # by norm, within its largest radius
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
    spec: Ood,
    *,
    eps: float,
    norm: str,
    rounds: int,
    seed: int,
    batch: int,
) -> dict[str, Tensor]:
    """x: images (N, C, H, W) within eps of x that the score takes for in-distribution, none with a lower score than in
    `start`; aucs: the AUC against `inside` before and after each round of the attack.

    A round is `restarts` descents with momentum, by steps that shorten to 0, of three kinds in turn. The first descends the
    score from a random point (once from `start`), by steps of length eps / 2. The second begins on the way from x to one of
    the in-distribution images with the highest scores and, as in the targeted attack of Croce and Hein (2020), descends the
    score of a class, in the order of the logits at x, if the score has classes. The third refines the best point found so
    far, by steps of length eps / 8. `grad_norm` is descended in a network whose kinks are smooth at first. Only images
    whose score is below that of all in-distribution images are attacked; moving the others changes neither AUC nor FPR.
    """
    energy, ball, scored = SCORES[score](f), NORMS[norm], convolving("fp32")(scores)
    s_in, best = scored(energy, inside, batch), start
    data = inside[torch.from_numpy(np.argsort(-s_in)[: max(len(s_in) // 5, 1)].copy())]
    with torch.no_grad():
        likeliest = torch.cat([f(part) for part in x.split(batch)]).argsort(1, descending=True)

    def descended(left: Tensor, r: int) -> Tensor:
        """The images `left` after restart r."""
        own, streams, steps = x[left], Streams(seed, "ood", norm, r, ids=left), spec.attack.steps
        aim, length, (turn, kind) = energy, eps / 2, divmod(r, 3)
        if kind == 0:
            begin = own + ball.random_start(own.shape, eps, streams) if r else best[left]
        elif kind == 1:
            begin = own + ball.project(data[streams.integers(len(data))] - own, eps)
            if score in CLASS_SCORES:
                aim = CLASS_SCORES[score](f, likeliest[left, turn % likeliest.shape[1]])
        else:
            begin, length = best[left] + ball.random_start(own.shape, NEAR * eps, streams), eps / 8
        if score == "grad_norm":
            aim = sharpening(f, steps=steps, first=FIRST[kind], last=LAST[turn % len(LAST)])
        return pgd(
            aim,
            own,
            start=begin,
            steps=steps,
            step_size=length,
            eps=eps,
            norm=norm,
            momentum=MOMENTUM,
            annealed=True,
            best=score != "grad_norm",  # that aim differs from step to step, so its values do not compare
        )

    s = scored(energy, best, batch)
    aucs, restarts = [auc(s_in, s)], spec.attack.restarts
    while not ended(aucs, rounds):
        for r in range((len(aucs) - 1) * restarts, len(aucs) * restarts):
            left = torch.from_numpy(s < s_in.max()).nonzero()[:, 0].to(x.device)
            if not len(left):
                break
            new = best.clone()
            new[left] = torch.cat([descended(part, r) for part in left.split(batch)])
            s_new = scored(energy, new, batch)
            better = torch.from_numpy(s_new > s).to(x.device)
            best, s = torch.where(better.view(-1, 1, 1, 1), new, best), np.maximum(s, s_new)
        aucs.append(auc(s_in, s))
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
    names = [detector, *(score for score in spec.scores if score != detector)]
    if net.outputs == 1:
        names = [name for name in names if name in ("energy", "grad_norm")]
    passes = Passes("tf32")  # without CUDA graphs: batches shrink as images pass, and graphs have no second derivatives

    def measured(job: tuple[str, str]) -> tuple[Scored, int, dict[str, AucCurve], dict[str, np.ndarray]]:
        """Detection of a set by a score, and n; for the detector's score also the curves and the scores themselves."""
        set_name, score = job
        n = min(spec.n, len(inside.x), len(outside[set_name].x))
        x_in, x_out = inside[:n].pixels(device), outside[set_name][:n].pixels(device)
        most = spec.attacked or n
        attacked = x_out[: most if score == detector else min(spec.attacked_others or most, most)]
        energy = SCORES[score](net)
        s_in, s_out = scores(energy, x_in, batch), scores(energy, x_out, batch)
        entry = Scored(**detection(s_in, s_out), worst={})
        curves: dict[str, AucCurve] = {}
        worst: dict[str, Tensor] = {}
        first, largest = next((norm, radii[-1]) for norm, radii in spec.radii.items())
        for norm, radii in (spec.radii if score == detector else {first: [largest]}).items():
            worst[norm] = attacked
            curves[norm] = AucCurve(eps=[0.0, *radii], auc=[auc(s_in, s_out[: len(attacked)])])
            for eps in radii:
                rounds = spec.rounds if eps == radii[-1] else 1
                with passes.sampling(net) as f:
                    attack = partial(
                        worst_case,
                        f,
                        score,
                        attacked,
                        worst[norm],
                        x_in,
                        spec,
                        eps=eps,
                        norm=norm,
                        rounds=rounds,
                        seed=seed,
                        batch=batch,
                    )
                    found = part(f"{set_name}, {score}, {norm} {eps}, {batch} at a time", attack)
                worst[norm] = found["x"].to(x_out.device)
                s_worst = scores(energy, worst[norm], batch)
                curves[norm].auc.append(auc(s_in, s_worst))
            reached = found["aucs"].tolist()[1:]
            entry.worst[norm] = WorstCase(
                eps=eps,
                **detection(s_in, s_worst),
                attack=f"pgd with momentum, {spec.attack.steps} steps, {spec.attack.restarts * len(reached)} restarts",
                rounds=reached,
                n=len(attacked),
            )
        moved = worst[first]
        if spec.attacks and score in (detector, *spec.attacks.scores):
            x, name = attacked[: spec.attacks.n], f"{set_name}, {score}, {first} {largest}, {batch} at a time"
            given: dict[str, Any] = {"eps": largest, "norm": first, "seed": seed, "batch": batch}
            with passes.sampling(net) as f:
                after = {
                    "descents": moved[: len(x)],
                    **spec.attacks.moved(SCORES[score](f), x, name=name, part=part, **given),
                }
            s_after = {key: scores(energy, z, batch) for key, z in after.items()}
            entry.attacks = beside(first, largest, s_in, s_after, spec.attacks)
        if score != detector:
            return entry, n, {}, {}
        images = {"in": x_in, "out": x_out, "worst": moved}
        behind = {key: scores(energy, x, batch) for key, x in images.items()}
        behind |= convincing(net, attacked, moved, behind["out"], behind["worst"])
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
