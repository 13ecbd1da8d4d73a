"""The declared dependencies of the stages, checked against the code."""

import shutil
from pathlib import Path

import pytest
import yaml

from advebm import cli, config, stages
from advebm.evaluation import MEASUREMENTS
from advebm.methods import METHODS
from advebm.runtime import code

FILES = [Path("dvc.yaml"), *sorted(Path("stages").rglob("dvc.yaml"))]
STAGES = {name: stage.get("do", stage) for f in FILES for name, stage in yaml.safe_load(f.read_text())["stages"].items()}
ENTRY = config.read(Path("params.yaml"), "tiny")
SHOWN = {"report", "compare"}


@pytest.mark.parametrize("name", sorted(STAGES))
def test_a_stage_runs_a_command_and_depends_on_its_own_part(name):
    python, script, command, *_ = STAGES[name]["cmd"].split()
    assert (python, script) == ("python3", "stages/run.py") and command in cli.COMMANDS
    listed, own = STAGES[name]["deps"], "results/study/${study}/"
    if name == "check":
        assert listed == ["params.yaml", "stages/run.py", "pkg/advebm"]
    elif name == "toy2d":
        needed = {f"pkg/advebm/{file}" for file in stages.code(["commands.toy2d"])}
        assert all(any(file.startswith(path) for path in listed) for file in needed)
    else:
        (part,) = [path.removeprefix(own).removesuffix(".json") for path in listed if path.startswith(own)]
        assert part.replace("${item}", "jem") in stages.parts(ENTRY)
        assert part.split("/")[0] == name and not any(path.startswith("pkg") for path in listed)


def test_no_dependency_lies_in_an_output_that_is_a_folder():
    """DVC looks such a file up in the folder of dvc.lock, and an experiment whose stages are all in the cache then fails
    where that folder is not, as in a clone. After `check` comes `sources`, which always runs: DVC reads its files anew."""
    outs = [next(iter(out)) if isinstance(out, dict) else out for stage in STAGES.values() for out in stage.get("outs", ())]
    outs.remove("results/study/${study}")
    for name, stage in STAGES.items():
        for path in stage["deps"]:
            path = path.replace("${item}", "M").replace("${method}", "M")
            assert not [out for out in outs if path.startswith(f"{out.replace('${item}', 'M')}/")], (name, path)


def test_every_measurement_and_method_has_its_stages():
    parts = stages.parts(ENTRY)
    assert {measurement.stage for measurement in MEASUREMENTS.values()} < set(STAGES)
    for stage in ("train", "sample", *(measurement.stage for measurement in MEASUREMENTS.values())):
        assert {f"{stage}/{method}" for method in METHODS} < set(parts)
    for stage in {measurement.stage for measurement in MEASUREMENTS.values()}:
        names = [name for name, measurement in MEASUREMENTS.items() if measurement.stage == stage]
        ends = {name: (".json", *(".png", ".pdf") * MEASUREMENTS[name].picture) for name in names}
        written = [f"{'${item}' if MEASUREMENTS[name].apart else name}{end}" for name in names for end in ends[name]]
        written += [f"{name}_{key}.png" for name in names for key in MEASUREMENTS[name].report.sheets]
        assert sorted(Path(out).name for out in STAGES[stage]["outs"]) == sorted(written)


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("methods/oe.py", {"train/oe", "ood/oe", "scores/oe"}),
        ("methods/at.py", {"train/at", "ood/at", "scores/at", "warm"}),
        ("methods/ascent.py", {"train/at_ebm", "train/dat"}),
        ("sharpness.py", {f"train/{m}" for m in METHODS} | {"judge", "warm"}),
        ("evaluation/autoattack.py", {f"autoattack/{m}" for m in METHODS} | SHOWN),
        ("evaluation/fisher.py", {f"fisher/{m}" for m in METHODS} | SHOWN),
        ("reports/calibration.py", {f"look/{m}" for m in METHODS} | SHOWN),
        ("reports/fisher.py", SHOWN),
        ("reports/published.yaml", SHOWN),
        ("reports/tables.py", SHOWN),
        ("samplers/buffer.py", {f"train/{m}" for m in METHODS} | {"judge", "warm"}),
        ("samplers/proximal.py", {f"train/{m}" for m in ("jempp", "robust_jem", "eb_jdat")}),
        ("data/sources.py", {"prepare"}),
        ("data/gaussians.py", {"gaussians", "baselines", "judge", "warm"}
            | {f"{s}/{m}" for s in ("train", "sample", "look", "applications") for m in METHODS}),
        ("figures/plots.py", {f"sample/{m}" for m in METHODS} | {"compare"}),
        ("reports/page.html", SHOWN),
        ("reports/comparison.py", {"compare"}),
        ("reports/scores.py", {"compare"}),
        ("runtime/tracking.py", set()),
        ("evaluation/__init__.py", set()),
        ("config.py", set()),
    ],
)  # fmt: skip
def test_an_edit_reruns_what_depends_on_it_and_nothing_else(tmp_path, monkeypatch, file, changed):
    shutil.copytree(code.PACKAGE, tmp_path / "advebm", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", tmp_path / "advebm")
    before = stages.parts(ENTRY)
    (tmp_path / "advebm" / file).open("a").write("\n# edited\n")
    after = stages.parts(ENTRY)
    assert {name for name, part in after.items() if part != before[name]} == changed


def test_a_change_of_params_reruns_its_stages_alone():
    changed = config.read(Path("params.yaml"), "tiny")
    changed["fisher"]["n"] = 7
    changed["models"]["jem"]["p_x"] = 0.5
    before, after = stages.parts(ENTRY), stages.parts(changed)
    assert {name for name in before if before[name] != after[name]} == {"train/jem", *(f"fisher/{m}" for m in METHODS)}
