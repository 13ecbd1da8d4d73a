"""Training."""

import csv
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from advebm import config
from advebm.commands import options as o
from advebm.data.prepared import about, load
from advebm.runtime import disk
from advebm.runtime.seldom import Seldom

if TYPE_CHECKING:
    from torch import Tensor

    from advebm.methods import Method
    from advebm.networks import Network
    from advebm.runtime.state import Good, State
    from advebm.runtime.tracking import Run
    from advebm.training import Diverged


WRITTEN = ("model.safetensors", "replay_buffer.npz", "recoveries.json", "none.json", "curves.*", "live.html", "grids/*.png")
BAR = {  # in the progress bar
    "train/loss": "loss",
    "train/energy_gap": "energy gap",
    "validation/accuracy": "accuracy",
    "pgd/accuracy": "under PGD",
}
OVERFITTED = "overfitted catastrophically"


class Course:
    """The progress of a training: its records, pictures and last good state, logged, shown in `out` and saved. The records
    in `earlier` come first: those of the model that training starts from."""

    def __init__(self, state: "State", good: "Good", run: "Run", title: str, out: Path, earlier: list[dict[str, float]]):
        self.state, self.good, self.run, self.title, self.out, self.earlier = state, good, run, title, out, earlier
        self.grids = state.folder / "grids"  # where they survive an interruption: DVC empties `out`
        self.rows: list[dict[str, float]] = list(good.about["rows"])
        self.recoveries: list[dict[str, Any]] = list(good.about["recoveries"])
        self.begun = time.monotonic() - good.about.get("seconds", 0.0)  # less the interruptions
        self.bar: dict[str, str] = {}  # what the progress bar shows
        self.curves = Seldom()

    def note(self, values: dict[str, float]) -> None:
        """Show in the progress bar."""
        import torch

        self.bar |= {word: f"{values[name]:.4g}" for name, word in BAR.items() if name in values}
        if torch.cuda.is_initialized():
            self.bar["GPU"] = f"{torch.cuda.max_memory_reserved() / 2**30:.1f} GiB"

    def log(self, step: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, **values})
        self.run.metrics(values, step)
        self.note(values)
        self.warn()
        self.show()

    def warn(self) -> None:
        """Tell of catastrophic overfitting in the progress bar and, once, in a line."""
        from advebm.evaluation.overfitting import overfitting
        from advebm.runtime import ranks

        found = overfitting(self.rows)
        if found and OVERFITTED not in self.bar:
            self.bar[OVERFITTED] = f"since step {found.step}"
            if ranks.rank() == 0:
                print(f"advebm: warning: {self.title}: {found.sign}", file=sys.stderr)

    def resume(self) -> None:
        """Show again what the interrupted training had shown."""
        if self.grids.exists():
            shutil.copytree(self.grids, self.out / "grids", dirs_exist_ok=True)
        self.show()
        self.page()

    def show(self, *, last: bool = False) -> None:
        """Write curves.csv and draw curves.png, unless its last drawing is too recent; at the end also for print. Only
        the leader does."""
        from advebm import figures
        from advebm.evaluation.overfitting import overfitting
        from advebm.runtime import ranks

        if ranks.rank():
            return
        self.out.mkdir(parents=True, exist_ok=True)
        rows = [*self.earlier, *self.rows]
        names = list(dict.fromkeys(name for row in rows for name in row))
        with (self.out / "curves.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {name: f"{value:.6g}" for name, value in row.items()} | {"step": int(row["step"])} for row in rows
            )
        if not (last or self.curves.due()):
            return
        table = {name: [row.get(name, math.nan) for row in rows] for name in names}
        found = overfitting(rows)
        with self.curves.timed():
            path = figures.curves(table, self.out / "curves.png", self.title, found and found.step, vector=last)
        if last:
            self.run.artifact(path)

    def watch(self, step: int, pictures: dict[str, "Tensor"]) -> None:
        from advebm import figures
        from advebm.data import images
        from advebm.runtime import ranks

        if ranks.rank():  # the leader draws
            return
        for name, x in pictures.items():
            path = self.grids / f"{name}_{step:06d}.png"
            figures.grid(images.to_bytes(x[:100]), path, f"{self.title}: {name.replace('_', ' ')}, step {step}")
            self.run.artifact(path, "grids")
            disk.force(path, self.grids)
            (self.out / "grids").mkdir(exist_ok=True)
            shutil.copy(path, self.out / "grids")
        self.page()

    def page(self, *, last: bool = False) -> None:
        """Write live.html. Only the leader does."""
        from advebm.figures.live import live
        from advebm.runtime import ranks

        if ranks.rank() == 0:
            live(self.out, self.title, self.rows[-1], last=last)

    def keep(self, step: int, tensors: dict[str, "Tensor"]) -> None:
        about = {"step": step, "rows": list(self.rows), "recoveries": list(self.recoveries), "run": self.run.uid}
        about["seconds"] = time.monotonic() - self.begun
        self.good = self.good._replace(tensors=tensors, about=about)
        self.state.save(self.good)

    def account(self, divergences: int) -> None:
        """Log what the training cost and how often it diverged."""
        self.run.metrics({"train/seconds": time.monotonic() - self.begun, "train/divergences": divergences})

    def roll_back(self, error: "Diverged", attempts: int) -> None:
        """Return to the last good state. Raises the error, with the recoveries tried, once there were `attempts` of
        them."""
        self.account(len(self.recoveries) + 1)
        if len(self.recoveries) == attempts:
            tried = f"; {attempts} recoveries did not help" if attempts else ""
            last = type(error)(f"{error}{tried}", error.step)
            last.recoveries = self.recoveries
            raise last from None
        from advebm.runtime import ranks

        step = self.good.about["step"]
        self.rows = list(self.good.about["rows"])
        self.recoveries.append({"event": str(error), "step": error.step, "back_to": step})
        if ranks.rank() == 0:
            print(f"advebm: {error}; resuming from step {step}", file=sys.stderr)


def train(
    method: Annotated[str, o.Argument(help="an entry of the study's models; or judge; or warm, the study's warm start")],
    data: o.Prepared,
    out: o.OutFolder,
    gaussians: Annotated[Path | None, Option(help="file that `gaussians` wrote, for methods that start from it")] = None,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    seed: o.Seed = 0,
    init: Annotated[Path | None, Option(help="model of the same network to start from (.safetensors)")] = None,
    warm: o.WarmFolder = None,
    change: o.Changes = None,
    quiet: o.Quiet = False,
) -> None:
    """Train a network. Writes curves.csv, curves.png, live.html to watch in a browser and, if the method has them, pictures
    at each record; at the end replay_buffer.npz, if the method has one, recoveries.json if training diverged and recovered,
    and model.safetensors.

    If training starts from another model, that model's curves come first, at negative steps.
    """
    entry = config.read(params, study, None if method in config.OTHERS else method)
    if method == "warm" and entry["warm"] is None:
        out.mkdir(parents=True, exist_ok=True)
        disk.clear(out, *WRITTEN)
        (out / "none.json").write_text(json.dumps({"warm": None}) + "\n")
        print(f"wrote {out}: {study} has no warm start")
        return
    if change:
        config.change_models(entry, [method], change)
        config.check(entry, f"{params}: {study}")
    described = about(data)
    import torch

    from advebm import networks
    from advebm.data import images
    from advebm.data.gaussians import Gaussians
    from advebm.energy import SCORES, passing, scores
    from advebm.methods.base import Context
    from advebm.networks.passes import convolving
    from advebm.runtime import progress, ranks, tracking
    from advebm.runtime.parts import BATCH
    from advebm.runtime.signals import Stopped
    from advebm.runtime.state import Good, opened
    from advebm.training import Diverged, fit, recovered

    model = config.model(entry, method)
    if model.warm and init is None:
        if warm is None:
            raise ValueError(f"{study}.models.{method} starts from the study's warm start: give its folder as --warm")
        init = warm / "model.safetensors"
    if init is not None and init.resolve().parent == out.resolve():
        raise ValueError(f"{init}: training would overwrite the model that it starts from; give another folder as --out")
    if not model.method.shared:
        ranks.leader_only()
    device = networks.device()
    start = None if gaussians is None else Gaussians.load(gaussians, device, about=described)
    context = Context(seed, tuple(described["shape"]), described["classes"], start, device)
    sets = {name: load(data, name) for name in ("train", "validation")}
    outliers = load(data, "outliers") if model.method.outliers else None
    spec = {"seed": seed, "study": study, "method": method, **config.trained_by(entry, method)}
    if init is not None:  # report a model that does not fit before writing anything
        networks.initialise(model.network.build(described["shape"], model.method.outputs(described["classes"])), init)
    origin = {} if init is None else {"init": images.digest(init)}
    key = [spec, described["sha256"], gaussians and images.digest(gaussians), origin, str(device)]

    def trained(course: Course) -> tuple["Network", "Method"]:
        """Train from the last good state, with the changes that the recoveries so far make."""
        own, training, changed = recovered(model.method, model.training, context, len(course.recoveries))
        torch.manual_seed(seed)
        net = model.network.build(described["shape"], own.outputs(described["classes"]))
        if init is not None:
            networks.initialise(net, init)
        net = fit(
            own,
            net.to(device),
            sets["train"],
            sets["validation"],
            training,
            changed,
            log=course.log,
            watch=course.watch,
            keep=course.keep,
            note=course.note,
            start=course.good.about["step"],
            state=course.good.tensors,
            outliers=outliers,
            progress=progress.bar(f"train {study}/{method}", quiet, course.bar),
        )
        return net, own

    def threshold(net: "Network", method: "Method") -> float:
        """The score that 95% of the validation images reach."""
        with networks.frozen(net), convolving("fp32"):
            return passing(scores(SCORES[method.detector](net), sets["validation"].pixels(device), BATCH))

    with opened("train", out, key, __name__) as state:
        disk.clear(out, *WRITTEN)
        good = state.load() or Good({}, {"step": 0, "rows": [], "recoveries": [], "run": None})
        resumed = good.about["run"]
        with tracking.run("train", study, method, params=config.flat(spec), uid=resumed) as run:
            earlier = [] if init is None else _before(init)
            course = Course(state, good, run, f"{study} {method}", out, earlier)
            run.tags(data__sha256=described["sha256"], **{f"{name}__sha256": sha for name, sha in origin.items()})
            for row in earlier if resumed is None else ():  # a resumed run has them
                run.metrics({name: value for name, value in row.items() if name != "step"}, int(row["step"]))
            if course.rows and ranks.rank() == 0:
                course.resume()
            while True:
                try:
                    net, own = trained(course)
                    break
                except Diverged as error:
                    course.roll_back(error, model.training.recovery.attempts)
                except (Stopped, RuntimeError):  # a signal, or another rank has ended
                    if course.good.tensors:
                        state.save(course.good, always=True)
                    raise

            course.show(last=True)
            course.page(last=True)
            if course.recoveries:
                disk.write_json(out / "recoveries.json", {"recoveries": course.recoveries}, sealed=True)
            for name, x in own.images():
                images.save(out / f"{name}.npz", images.Images(images.to_bytes(x)))
            if own.chains and getattr(model.network, "norm", None) == "batch":
                origin["statistics"] = "batch"  # that normalised its chains, see networks/norms.py
            checkpoint = out / "model.safetensors"  # the last file: with it the folder is complete
            beside = [file for file in (out / "curves.csv", out / "replay_buffer.npz") if file.exists()]
            use = {  # see docs/api.md
                "classes": described["classes"],
                "detector": own.detector,
                "threshold": threshold(net, own),
                "recipes": [*entry["sampling"].get(method, {}).items()],  # in order, which JSON objects lose
                "precision": entry["precision"],
                "beside": {file.name: images.digest(file) for file in beside},
            }
            networks.save(checkpoint, net, study=study, method=method, seed=seed, data=described["sha256"], **use, **origin)
            course.account(len(course.recoveries))
            run.tags(checkpoint__sha256=images.digest(checkpoint))
            run.artifact(checkpoint)
    shown = (f"{name} {value:.4g}" for name, value in course.rows[-1].items() if name.startswith("validation/"))
    print(f"wrote {checkpoint}: {', '.join(shown)}")


def _before(model: Path) -> list[dict[str, float]]:
    """The records of a model's training, its last at step 0; empty if there are none. Raises ValueError for another
    content."""
    from advebm import networks
    from advebm.evaluation.overfitting import records

    curves = networks.beside(model, "curves.csv")
    rows = [] if curves is None else records(curves)
    last = max((int(row["step"]) for row in rows), default=0)
    return [row | {"step": int(row["step"]) - last} for row in rows]
