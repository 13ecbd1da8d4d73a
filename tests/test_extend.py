"""Add a method and a measurement to a copy of the tree, as CONTRIBUTING.md describes, and run both through DVC."""

import json
import sys
from pathlib import Path

from test_pipeline import clone, shell, stages_run

METHOD = '''"""Cross-entropy on mirrored images."""

from dataclasses import dataclass

from advebm.data.batches import Batch
from advebm.energy import posterior
from advebm.methods.base import Loss, Method
from advebm.networks import Network
from advebm.ranges import Fraction


@dataclass(kw_only=True)
class Mirror(Method):
    weight: Fraction = 0.5

    def loss(self, net: Network, batch: Batch, step: int) -> Loss:
        ce = posterior(net, batch.y)(batch.x.flip(3)).mean()
        return Loss(self.weight * ce, {"ce": ce})
'''
MEASUREMENT = '''"""Mean brightness of the test images, weighted by the network's confidence."""

from dataclasses import dataclass

import torch

from advebm.evaluation.result import Result
from advebm.evaluation.subject import Subject
from advebm.ranges import Count
from advebm.runtime.parts import Part


@dataclass(kw_only=True)
class Brightness:
    n: Count = 20

    def measure(self, subject: Subject, part: Part) -> "tuple[BrightnessResult, None]":
        images = subject.images("test")[: self.n]
        with torch.no_grad():
            sure = subject.net(images.pixels()).softmax(1).amax(1)
        return BrightnessResult(mean=float((sure * images.pixels().mean((1, 2, 3))).mean()), n=len(images.x)), None


@dataclass(kw_only=True)
class BrightnessResult(Result):
    mean: float
    n: int
'''
REPORT = '''"""How brightness is shown."""

from advebm.evaluation.brightness import BrightnessResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table


class BrightnessReport(Report[BrightnessResult]):
    def line(self, result: BrightnessResult) -> str:
        return f"mean {result.mean:.3f}"

    def metrics(self, result: BrightnessResult) -> Numbers:
        return {"brightness/mean": result.mean}

    def summary(self, result: BrightnessResult) -> Numbers:
        return {"brightness": result.mean}

    def table(self, result: BrightnessResult) -> Table:
        return Table("Brightness", ["mean", "n"], [[result.mean, result.n]])


REPORT = BrightnessReport()
'''
ENTRY = '    Measurement(name="brightness", kind="Brightness", about="Brightness.", stage="brightness", picture=False),\n'
SHOWN = """
from pathlib import Path
from advebm.reports.comparison import classification
from advebm.reports.method import sections
from advebm.reports.results import measured
found = measured(Path("results/tiny/mirror"), Path("models/tiny/mirror"), partial=True)
print([table.title for table in sections(found)], classification({"mirror": found}).header)
"""


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, old
    file.write_text(text.replace(old, new))


def changed(folder):
    """The files that were added or edited, except the schema, which a command writes."""
    shell(folder, "git", "add", "-A")
    files = shell(folder, "git", "diff", "--cached", "--name-only").split()
    shell(folder, "git", "commit", "-qm", "more")
    return [file for file in files if not file.endswith("params.schema.json")]


def test_a_method_and_a_measurement_are_a_few_files_each(tmp_path):
    folder = clone(tmp_path / "copy", "tiny")
    package, params = folder / "pkg/advebm", folder / "params.yaml"
    schema = [sys.executable, "-m", "advebm.config"]
    here = {"PYTHONPATH": folder / "pkg", "ADVEBM_TRACKING": "off"}

    (package / "methods/mirror.py").write_text(METHOD)
    edit(
        package / "methods/__init__.py", '    "standard": Standard,\n', '    "standard": Standard,\n    "mirror": Mirror,\n'
    )
    edit(
        package / "methods/__init__.py",
        "from advebm.methods.noise",
        "from advebm.methods.mirror import Mirror\nfrom advebm.methods.noise",
    )
    edit(params, "methods:\n- standard\n", "methods:\n- standard\n- mirror\n")
    shell(folder, *schema, **here)
    assert len(changed(folder)) == 3

    (package / "evaluation/brightness.py").write_text(MEASUREMENT)
    (package / "reports/brightness.py").write_text(REPORT)
    edit(package / "evaluation/__init__.py", "_TABLE = (\n", f"_TABLE = (\n{ENTRY}")
    edit(params, "    calibration: {}\n", "    calibration: {}\n    brightness: {}\n")
    stage = folder / "stages/brightness/dvc.yaml"
    stage.parent.mkdir()
    stage.write_text((folder / "stages/fisher/dvc.yaml").read_text().replace("fisher", "brightness"))
    shell(folder, *schema, **here)
    assert len(changed(folder)) == 5

    log = shell(folder, "dvc", "repro", "stages/brightness/dvc.yaml:brightness@mirror", **here)
    assert set(stages_run(log)) == {"check", "sources", "prepare", "gaussians", "warm", "train@mirror", "brightness@mirror"}
    found = json.loads((folder / "results/tiny/mirror/brightness.json").read_text())
    assert 0 < found["mean"] < 1 and found["n"] == 20
    shown = shell(folder, sys.executable, "-c", SHOWN, **here)
    assert shown.strip() == "['Brightness'] ['method', 'brightness']"
    assert Path(folder, "models/tiny/mirror/model.safetensors").is_file()
