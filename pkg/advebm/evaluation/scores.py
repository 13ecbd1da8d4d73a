"""The worst case of the scores that are not the detector's own: which score of an energy is hardest to fool."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch

from advebm.data.images import Images
from advebm.evaluation.attacks import Attacks
from advebm.evaluation.ood import Attacking, Scored, attacked, others, sides
from advebm.evaluation.result import Named
from advebm.evaluation.subject import Subject
from advebm.networks import Network, device
from advebm.networks.passes import convolving
from advebm.ranges import Positive
from advebm.runtime import ranks
from advebm.runtime.parts import BATCH, SEED, Part, anew

Score = Literal["energy", "max_softmax", "grad_norm", "logit"]


@dataclass(kw_only=True)
class Scores(Attacking):
    """The scores besides the detector's own, each attacked by itself within one radius."""

    names: list[Score] = field(default_factory=lambda: list(get_args(Score)))
    norm: Literal["l2", "linf"] = "l2"
    eps: Positive
    attacks: dict[Score, Attacks] = field(default_factory=dict)  # published ones, by the score that they attack

    def measure(self, subject: Subject, part: Part) -> "tuple[ScoresResult, None]":
        inside, outside, bar = subject.images(self.split), subject.outside, subject.bar("scores")
        net, detector, spec = subject.net, subject.detector, self.of(subject.method)
        return compared(net, detector, inside, outside, spec, seed=SEED, device=device(), part=part, progress=bar), None


@dataclass(kw_only=True)
class SetScores:
    """Detection of a set by each score but the detector's own."""

    n: int  # images per side
    scores: dict[str, Scored]


@dataclass(kw_only=True)
class ScoresResult(Named):
    """By out-distribution set."""

    named: dict[str, SetScores]


@convolving("fp32")
def compared(
    net: Network,
    detector: str,
    inside: Images,
    outside: dict[str, Images],
    spec: Scores,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
    part: Part = anew,
    progress: Callable = iter,
) -> ScoresResult:
    """Detection of each set by each score; see `ood` for the arguments."""
    radii: Any = {spec.norm: [spec.eps]}

    def measured(job: tuple[Score, str]) -> tuple[int, Scored]:
        """n, and detection of a set by a score."""
        score, name = job
        x_in, x_out = sides(inside, outside[name], spec.n, device)
        given: dict[str, Any] = {"name": f"{name}, {score}", "seed": seed, "batch": batch, "part": part}
        entry, *_ = attacked(net, score, x_in, x_out, radii, spec, spec.attacks.get(score), **given)
        return len(x_in), entry

    jobs = [(score, name) for score in spec.names if score in others(net, detector) for name in outside]
    found: dict[str, SetScores] = {}
    for (score, name), (n, entry) in zip(jobs, ranks.spread(measured, jobs, progress), strict=True):
        found.setdefault(name, SetScores(n=n, scores={})).scores[score] = entry
    return ScoresResult(named=found)
