"""Measurements of a trained model, one a file: a dataclass whose fields are its parameters and whose `measure(subject)` is
what it finds, and a dataclass of that result. How a result is shown is in reports/, in a file of the same name.

MEASUREMENTS is what the command line, params.yaml, stages, reports and pages go through, in this order. Importing it
imports none of the files, and so not torch.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

INPUTS = ("samples", "gaussians", "judge", "baselines", "root")  # that a measurement may need beside model and data


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """An entry of MEASUREMENTS; `about` is the help of its command."""

    name: str  # of its file, its command, its part of params.yaml, and of the JSON file that it writes
    kind: str  # the class in evaluation/NAME.py that holds its parameters
    about: str
    inputs: tuple[str, ...] = ()  # of INPUTS
    stage: str  # of DVC; several cheap measurements share one
    detects: bool = False  # whether it depends on the score that the method detects by
    sampled: bool = False  # whether it depends on how images are sampled
    shared: bool = False  # whether several processes can share its work
    picture: bool = True  # it writes NAME.json and NAME.png in a folder; else --out is the JSON file
    required: bool = False  # every study has it, and a comparison needs it
    metric: bool = True  # report.json, which DVC compares, has its numbers

    @property
    def spec(self) -> Any:
        """The class of its parameters."""
        return getattr(import_module(f"advebm.evaluation.{self.name}"), self.kind)

    @property
    def report(self) -> Any:
        """How its result is shown, see reports/base.py."""
        return import_module(f"advebm.reports.{self.name}").REPORT

    @property
    def result(self) -> Any:
        """The class of its result."""
        return getattr(import_module(f"advebm.evaluation.{self.name}"), f"{self.kind}Result")


_TABLE = (
    Measurement(
        name="robustness",
        stage="robustness",
        kind="Robustness",
        about="Accuracy on test images, clean, under the study's attacks, and against the radius.",
        shared=True,
        required=True,
    ),
    Measurement(
        name="autoattack",
        stage="autoattack",
        kind="AutoAttack",
        about="Accuracy on test images after each attack of AutoAttack's standard version.",
        shared=True,
        picture=False,
    ),
    Measurement(
        name="quality",
        stage="quality",
        kind="Quality",
        about="FID, KID, Inception Score, precision, recall and label consistency of the samples of each recipe, and of "
        "the replay buffer that lies beside the model, where there is one.",
        inputs=("samples", "judge", "baselines", "root"),
        sampled=True,
        picture=False,
        required=True,
    ),
    Measurement(
        name="ood",
        stage="ood",
        detects=True,
        kind="Ood",
        about="AUC and FPR at 95% TPR, test images against each out-distribution set, by each score, standard and in the "
        "worst case.",
        shared=True,
        required=True,
    ),
    Measurement(
        name="fisher",
        stage="fisher",
        kind="Fisher",
        about="Fisher scores of E(x, y) and E(x) on test images.",
        shared=True,
        picture=False,
    ),
    Measurement(
        name="calibration",
        stage="look",
        kind="Calibration",
        about="Expected calibration error on test images, and a reliability diagram.",
    ),
    Measurement(
        name="neighbours",
        stage="look",
        kind="Neighbours",
        about="The training images nearest to the samples of each recipe, by L2 and by SSIM, and to as many test images.",
        inputs=("samples",),
        sampled=True,
    ),
    Measurement(
        name="landscape",
        stage="look",
        kind="Landscape",
        about="The energy on planes of random directions through test images.",
        metric=False,
    ),
    Measurement(
        name="interpolation",
        stage="look",
        kind="Interpolation",
        about="Rows of images from sample to sample, made by each recipe of the method from starts between theirs.",
        inputs=("gaussians",),
        sampled=True,
        metric=False,
    ),
)
MEASUREMENTS: dict[str, Measurement] = {measurement.name: measurement for measurement in _TABLE}
