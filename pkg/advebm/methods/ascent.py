"""What methods share whose negatives are ascents from out-distribution images (Yin, Li and Rohde 2022)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import MinLen
from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import Energy
from advebm.methods.base import Context, Method
from advebm.ranges import Count, Fraction, Start
from advebm.runtime import ranks
from advebm.samplers.pgd import Ascent


@dataclass(kw_only=True)
class Progressive:
    """K = 0, 1, 2, ... (Algorithm 2). K rises after `iterations` batches or, as in the released code, as soon as the mean
    AUC of D over the last `window` batches at this K exceeds `auc` (null: never early)."""

    iterations: Count
    auc: Fraction | None = 0.8
    window: Count = 100


@dataclass(kw_only=True)
class AscentMethod(Method):
    """A method whose negatives x* are x_out after K steps of `ascent` of -E. x_out are out-distribution images, class
    Gaussians or noise; the papers' out-distribution set is withdrawn."""

    chains: ClassVar[bool] = True
    ascent: Ascent  # its steps are K, or the last K if progressive
    progressive: Progressive | None = None  # null: K is fixed
    start: Annotated[tuple[Start, ...], MinLen(1)] = ("outliers",)  # of x_out: image i has start i modulo their number

    @property
    def outliers(self) -> bool:
        return "outliers" in self.start

    def begin(self, context: Context) -> None:
        super().begin(context)
        self.k = 0 if self.progressive else self.ascent.steps
        self.aucs: list[float] = []  # of the batches at this K
        self.drawn: tuple[int, Tensor] | None = None  # the last step, and its x*
        self.counted = -1  # the last step whose AUC was counted

    def longer(self, factor: float) -> "Method":
        return replace(self, ascent=self.ascent.scaled(factor))

    def starts(self, batch: Batch, step: int, y: Tensor | None = None) -> Tensor:
        """x_out (B, C, H, W): image i has start i modulo their number; class Gaussians are of classes y (B,), or of
        uniformly drawn ones."""
        count = len(batch.x)

        def gaussians() -> Tensor:
            streams = self.streams("gaussians", step, count=count)
            return self.gaussians().start(streams) if y is None else self.gaussians().sample(y, streams)

        draws: dict[str, Callable[[], Any]] = {
            "outliers": lambda: batch.x_out,
            "gaussians": gaussians,
            "uniform": lambda: self.streams("uniform", step, count=count).uniform(*batch.x.shape[1:]),
        }
        drawn = torch.stack([draws[start]().to(batch.x.dtype) for start in self.start])
        image = torch.arange(count, device=drawn.device)
        return drawn[ranks.ids(count, drawn.device) % len(drawn), image]

    def negatives(self, energy: Energy, batch: Batch, step: int, y: Tensor | None = None) -> Tensor:
        """x* (B, C, H, W). Again in the same step they are the same."""
        if self.drawn is None or self.drawn[0] != step:
            self.drawn = step, replace(self.ascent, steps=self.k)(energy, self.starts(batch, step, y))
        return self.drawn[1]

    def judged(self, e: Tensor, e_star: Tensor, step: int) -> dict[str, Tensor]:
        """The AUC of D, by the energies of x and x*, each (B,), and K, to log; K rises after the step if it is time."""
        near, far = ranks.gather(e.detach()), ranks.gather(e_star.detach())
        auc = ((near[:, None] < far).double() + 0.5 * (near[:, None] == far)).mean()
        logs = {"auc": auc, "k": auc.new_full((), self.k)}
        if step != self.counted:
            self.counted = step
            self.advance(auc)
        return logs

    def advance(self, auc: Tensor) -> None:
        """Raise K after a batch of this AUC if it is time. The AUC is read from the device only until the last K."""
        if self.progressive is None or self.k == self.ascent.steps:
            return
        rule = self.progressive
        self.aucs.append(float(auc))
        last = self.aucs[-rule.window :]
        easy = rule.auc is not None and len(last) == rule.window and sum(last) / rule.window > rule.auc
        if easy or len(self.aucs) == rule.iterations:
            self.k, self.aucs = self.k + 1, []

    def state_dict(self) -> dict[str, Tensor]:
        return {"k": torch.tensor(self.k), "aucs": torch.tensor(self.aucs, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.aucs = state["aucs"].tolist()
        if self.progressive:
            self.k = int(state["k"])
