"""AT-EBM: an energy-based model by binary adversarial training (Yin, Li and Rohde 2022)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import MinLen
from torch import Tensor

from advebm.data.batches import Batch
from advebm.energy import binary, marginal, negative
from advebm.methods.base import Context, Loss, Method
from advebm.networks import Network
from advebm.ranges import Count, Fraction, NonNegative, Start
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
class ATEBM(Method):
    """min -log D(x) - log(1 - D(x*)) + r1/2 |df(x)/dx|^2, D = sigmoid(f[0]), E = -f[0] (Algorithm 1).

    x* is x_out after K steps of `ascent` on f. x_out are out-distribution images, class Gaussians or noise; the paper's
    out-distribution set is withdrawn. `objective: ebm` is mean f(x*) - mean f(x) (Section 5.3), which diverges.
    """

    ascent: Ascent  # its steps are K, or the last K if progressive
    progressive: Progressive | None = None  # null: K is fixed
    start: Annotated[tuple[Start, ...], MinLen(1)] = ("outliers",)  # of x_out: image i has start i modulo their number
    descent: Ascent | None = None  # of f from x, which moves the data as in the released code; null: Algorithm 1
    r1: NonNegative = 0.0  # gamma, for gradients of images in [0, 1]
    objective: Literal["bce", "ebm"] = "bce"

    chains: ClassVar[bool] = True

    @property
    def outliers(self) -> bool:
        return "outliers" in self.start

    def outputs(self, classes: int) -> int:
        return 1

    def begin(self, context: Context) -> None:
        super().begin(context)
        self.k = 0 if self.progressive else self.ascent.steps
        self.aucs: list[float] = []  # of the batches at this K

    def longer(self, factor: float) -> "Method":
        return replace(self, ascent=self.ascent.scaled(factor))

    def starts(self, batch: Batch, step: int) -> Tensor:
        """x_out (B, C, H, W): image i has start i modulo their number."""
        count = len(batch.x)
        draws: dict[str, Callable[[], Any]] = {
            "outliers": lambda: batch.x_out,
            "gaussians": lambda: self.gaussians().start(self.streams("gaussians", step, count=count)),
            "uniform": lambda: self.streams("uniform", step, count=count).uniform(*batch.x.shape[1:]),
        }
        drawn = torch.stack([draws[start]().to(batch.x.dtype) for start in self.start])
        image = torch.arange(count, device=drawn.device)
        return drawn[ranks.ids(count, drawn.device) % len(drawn), image]

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        x = batch.x.detach().requires_grad_(self.r1 > 0)
        x_adv = None
        with self.passes.sampling(net) as f:
            x_star = replace(self.ascent, steps=self.k)(marginal(f), self.starts(batch, step))
            if self.descent is not None:
                x = x_adv = self.descent(negative(marginal(f)), x).requires_grad_(self.r1 > 0)
        f_star, f_data = net(x_star), net(x)  # separate passes, as R1 differentiates only the second twice
        e, e_star = marginal.of(f_data), marginal.of(f_star)
        if self.objective == "bce":
            value = (binary.of(f_data, real=True) + binary.of(f_star, real=False)).mean()
        else:
            value = (e - e_star).mean()
        if self.r1:
            (gradient,) = torch.autograd.grad(e.sum(), x, create_graph=True)
            value = value + self.r1 / 2 * gradient.flatten(1).square().sum(1).mean()
        near, far = ranks.gather(e.detach()), ranks.gather(e_star.detach())
        auc = ((near[:, None] < far).double() + 0.5 * (near[:, None] == far)).mean()
        logs = {"energy": e.mean(), "energy_gap": e.mean() - e_star.mean(), "auc": auc, "k": auc.new_full((), self.k)}
        self.advance(auc)
        return Loss(value, logs, x_adv=x_adv, x_neg=x_star)

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

    def score(self, net: Network, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        logits = net(x)
        return {"energy": marginal.of(logits), "bce": binary.of(logits, real=True)}

    def state_dict(self) -> dict[str, Tensor]:
        return {"k": torch.tensor(self.k), "aucs": torch.tensor(self.aucs, dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.aucs = state["aucs"].tolist()
        if self.progressive:
            self.k = int(state["k"])
