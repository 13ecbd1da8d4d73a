"""Every mistake is reported in one line that says what is wrong and what would be right. Nothing is overwritten."""

import copy
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from advebm import cli, config, networks
from advebm.methods import METHODS
from advebm.networks.wrn import WideResNet
from advebm.runtime import disk, project

PARAMS = yaml.safe_load(Path("params.yaml").read_text())

# a key of the study tiny, its value, the error message
VALUES = [
    ("models", dict.fromkeys(METHODS), "must name at least one method"),
    ("network.wdith", 2, "unknown key 'wdith' (did you mean width?)"),
    ("network.depth", 11, "11 is not one of"),
    ("network.norm", "layer", "'layer' is not one of ['none', 'batch', 'group', 'frozen', 'fixed']"),
    ("network.width", "wide", "'wide' is not of type 'integer'"),
    ("training.optimizer.lr", "fast", "'fast' is not of type 'number'"),
    ("training.optimizer.lr", -1.0, "-1.0 is less than or equal to the minimum of 0"),
    ("training.optimizer.name", "adamw", "'adamw' is not one of ['adam', 'sgd']"),
    ("training.optimizer.momentum", 0.9, "unknown key 'momentum'"),
    ("training.batch", 0, "0 is less than the minimum of 1"),
    ("training.batch", 2.5, "2.5 is not of type 'integer'"),
    ("training.ema", 1.0, "1.0 is greater than or equal to the maximum of 1"),
    ("models.at.attack.eps", -0.1, "-0.1 is less than the minimum of 0"),
    ("models.at.attack.norm", "l3", "'l3' is not one of ['linf', 'l2']"),
    ("models.at.atack", {}, "unknown key 'atack' (did you mean attack?)"),
    ("models.jem.sampler.steps", None, "None is not of type 'integer'"),
    ("models.jem.buffer.reinit", 1.5, "1.5 is greater than the maximum of 1"),
    ("models.robust_gem", {}, "unknown key 'robust_gem' (did you mean robust_jem?)"),
    ("models.robust_jem.positives", "dirty", "'dirty' is not one of ['clean', 'adversarial', 'plain']"),
    ("sampling.at.targeted.recipe", "attack", "'attack' is not one of"),
    ("sampling.at.targeted.attack", "strong", "'strong' is not of type 'object'"),
    ("sampling.robust_jem.combined.contrast", 2, "2 is greater than the maximum of 1"),
    ("data.test", "many", "'many' is not valid under any of the given schemas"),
    ("data.out", ["uniform"], "['uniform'] is not of type 'object'"),
    ("quality.features", "vgg", "'vgg' is not one of ['judge', 'inception']"),
    ("promote.metric", "fid", "must begin with a measurement, as in quality/sgld/fid, not 'fid'"),
    ("promote.best", "least", "'least' is not one of ['highest', 'lowest']"),
    ("samples", 9, "9 is less than the minimum of 10"),
    ("quality.reference_images", 3, "3 is less than the minimum of 10"),
    ("ood.n", 1, "1 is less than the minimum of 2"),
    ("ood.attacked", 1, "1 is less than the minimum of 2"),
    ("landscape.images", 1, "1 is less than the minimum of 2"),
    ("robustness.attacks.clean", {"eps": 0.1, "steps": 1}, "the name 'clean' is the program's own; take another"),
    ("robustness.attacks.curve", {"eps": 0.1, "steps": 1}, "the name 'curve' is the program's own; take another"),
    ("sampling.jem.baselines", {"recipe": "draw"}, "the name 'baselines' is the program's own; take another"),
    ("sampling.jem.sgld_strip", {"recipe": "draw"}, "the name 'sgld_strip' is the program's own; take another"),
    ("data.out.outliers", "uniform", "the name 'outliers' is the program's own; take another"),
    ("data.out.svhn/test", "uniform", "the name 'svhn/test' must consist of letters, digits, - and _"),
    ("sampling.jem.a b", {"recipe": "draw"}, "the name 'a b' must consist of letters, digits, - and _"),
    ("robustness.attacks.pgd20.eps", float("inf"), "inf is not a finite number"),
    ("network", None, "None is not of type 'object'"),
    ("models", ["at"], "['at'] is not of type 'object'"),
    ("data.out", {"photographs": None, "uniform": None}, "{} should be non-empty"),
    ("gaussians.ridge", 0, "0 is less than or equal to the minimum of 0"),
    ("training.epochs", 0, "0 is less than or equal to the minimum of 0"),
    ("training.recovery", {"lr": 2.0}, "2.0 is greater than the maximum of 1"),
    ("training.recovery", {"steps": 0.5}, "0.5 is less than the minimum of 1"),
    ("training.schedule", {"kind": "cos"}, "'cos' is not one of"),
    ("scores.names", ["energie"], "'energie' is not one of"),
    ("ood.radii", {"l2": None, "linf": None}, "{} should be non-empty"),
    ("ood.radii", {"l2": []}, "[] should be non-empty"),
    ("ood.radii", {"l3": [1.0]}, "'l3' is not one of ['l2', 'linf']"),
    ("autoattack", {"eps": {"linf": -1.0}}, "-1.0 is less than or equal to the minimum of 0"),
    ("fisher.n", 1, "1 is less than the minimum of 2"),
    ("models.at_ebm.start", [], "[] should be non-empty"),
    ("models.at_ebm.objective", "wgan", "'wgan' is not one of ['bce', 'ebm']"),
    ("models.jempp.sampler.outer", 0, "0 is less than the minimum of 1"),
    ("models.robust_jem.p_x", -1.0, "-1.0 is less than the minimum of 0"),
    ("seed", 0, "unknown key 'seed'"),
]

MISSING = ["data", "models", "sampling", "judge", "ood", "models.at.attack", "training.optimizer.name"]

# the whole file, the error message
FILES = [
    ("", "holds no studies"),
    ("[1, 2]", "holds no studies"),
    ("study: tiny", "holds no studies"),
    ("tiny: [}", "is not YAML"),
    ("\x00", "is not YAML"),
]

# top-level keys of the params file, the error message
TOP = [
    ({"seed": "abc"}, "seed must be an integer of at least 0, not 'abc'"),
    ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
    ({"methods": ["at", "jam"]}, "methods must be a list of standard, at"),
    ({"launch": 2}, "launch must be {processes: N} with N an integer of at least 1, not 2"),
    ({"launch": {"processes": 0}}, "launch must be {processes: N} with N an integer of at least 1"),
    ({"launch": {"processes": 3}}, "3 processes (launch) cannot share tiny.models.at.training.batch of 32 evenly"),
    ({"launch": {"proceses": 2}}, "launch must be {processes: N} with N an integer of at least 1"),
    ({"methods": "at"}, "methods must be a list of standard, at"),
    ({"tiny": {"like": "digitz"}}, "tiny.like: no study or base 'digitz' (did you mean digits?)"),
    ({"tiny": {"like": "tiny"}}, "tiny.like: must not be circular: tiny -> tiny"),
    ({"tiny": {"like": "digits", "fischer": {}}}, "tiny: unknown key 'fischer' (did you mean fisher?)"),
    ({"tiny": {"like": "mine"}, "mine": {"samples": 5}}, "tiny: lacks data, gaussians"),
]

DATA, MODEL, GAUSSIANS = "--data {work}/data", "--model {work}/judge/model.safetensors", "--gaussians {work}/g.safetensors"

# a command on the study tiny, changes of its params, the error message
STAGES = [
    (f"train standard {DATA}", {"training.batch": 100000}, "a batch of 100000 is larger than the set of"),
    (
        f"train jempp {DATA} {GAUSSIANS} -q",
        {"models.jempp.buffer": {"size": 3}},
        "the replay buffer holds 3 images, too few",
    ),
    (
        f"train standard {DATA}",
        {"training.augmentation": {"pad": 8}},
        "augmentation.pad 8 must be less than",
    ),
    (f"train jempp {DATA}", {}, "chains of this method start from the class Gaussians: name their file by --gaussians"),
    (f"train standard {DATA}", {"models.standard.network": {"kind": "glow"}}, "'glow' is not one of ['wrn', 'resnet']"),
    (
        f"train glow {DATA}",
        {"models.glow.network": {"kind": "glow", "levels": 4}},
        "4 levels need images whose",
    ),
    ("prepare", {"data.source": "cifra10"}, "no data source 'cifra10'"),
    ("prepare --root {out}", {"data.source": "cifar10"}, "is missing and could not be downloaded"),
    ("prepare", {"data.source": "npz:nowhere.npz"}, "no such file"),
    ("prepare", {"data.source": "folder:nowhere"}, "no such folder of images"),
    ("prepare", {"data.validation": 3}, "tiny.data.validation: 3 of"),
    ("prepare", {"data.test": None}, "tiny.data.test: digits has no test split; say how many images to hold out"),
    ("prepare", {"data.out": {"a": "noise"}}, "no data source 'noise'"),
    ("prepare", {"data.outliers": "photographs:nobody"}, "nobody"),
    (
        "prepare",
        {"data.outliers": "digits", "data.out": {"a": "digits"}},
        "of its images are among the outliers of training",
    ),
    ("prepare --root {bad}", {"data.source": "npz:float.npz"}, "x must be uint8"),
    ("prepare --root {bad}", {"data.source": "npz:empty.npz"}, "holds no images"),
    ("prepare --root {bad}", {"data.source": "npz:nox.npz"}, "has no array x, only z"),
    ("prepare --root {bad}", {"data.source": "npz:labels.npz"}, "y must be class indices"),
    ("prepare --root {bad}", {"data.source": "npz:object.npz"}, "is not a readable .npz"),
    ("prepare --root {bad}", {"data.source": "npz:cut.npz"}, "may be damaged"),
    ("prepare --root {bad}", {"data.source": "folder:pictures"}, "a.png: is not a readable image"),
    ("prepare --root {bad}", {"data.source": "folder:none"}, "holds no images"),
    ("prepare --root {bad}", {"data.source": "folder:huge"}, "exceeds limit"),
    ("gaussians --data {bad}/one_class --out {out}/g -q", {}, "its images are not those that about.json describes"),
    ("gaussians --data {out} --out {out}/g", {}, "about.json: not there; `advebm prepare` makes it"),
    ("train standard --data {bad}/cut", {}, "train.npz: is not a readable .npz file"),
    ("train standard --data {bad}/about", {}, "about.json: is damaged"),
    ("train standard --data {bad}/lacks", {}, "about.json: lacks sha256; run `advebm prepare` again"),
    ("train standard --data {out}", {}, "not there; `advebm prepare` makes it"),
    (f"train jempp {DATA} --gaussians {{bad}}/cut.safetensors", {}, "cut.safetensors"),
    (f"train jempp {DATA} --gaussians {{out}}/none", {}, "none"),
    (f"sample at {MODEL} {DATA} {GAUSSIANS}", {"sampling.at.targeted.start": "outliars"}, "'outliars' is not one of"),
    (f"sample at --model {{bad}}/cut.safetensors {DATA} {GAUSSIANS}", {}, "is not a readable advebm model"),
    *(
        (f"{command} at --model {{bad}}/one.safetensors {DATA} {GAUSSIANS}", {}, "of 10 classes, but the network has 1;")
        for command in ("sample", "interpolation")
    ),
    (f"sample at --model {{out}}/none {DATA} {GAUSSIANS}", {}, "no such model file; `advebm train` makes one"),
    (f"ood at --model {{work}}/g.safetensors {DATA}", {}, "is not a readable advebm model"),
    (f"ood at {MODEL} {DATA}", {"ood.radii": {"l2": [1.0, 0.5]}}, "must increase: each radius starts from the result"),
    (f"ood at {MODEL} {DATA}", {"ood.cheaper": {"att": {"n": 5, "attacked": 5}}}, "tiny.ood.cheaper: no method 'att'"),
    (f"ood at {MODEL} --data {{bad}}/no_out", {}, "no_out/out/photographs.npz: not there; run `advebm prepare` again"),
    (f"ood at {MODEL} --data {{bad}}/shape", {}, "not [3, 32, 32]; it belongs to another study"),
    (f"robustness at {MODEL} {DATA}", {"robustness.curve.radii": [0.2, 0.1]}, "must increase"),
    (f"robustness at {MODEL} --data {{out}}", {}, "`advebm prepare` makes it"),
    (
        f"quality at --samples {{out}} {MODEL} {DATA} --judge {{out}}/j --baselines {{out}}",
        {},
        "`advebm train judge` makes it",
    ),
    (f"baselines {DATA} {GAUSSIANS} --judge {{out}}/j", {}, "no such model file"),
    *(
        (f"steps {method} {MODEL} {DATA} {GAUSSIANS} --judge {{out}}/j {given}", {}, message)
        for method, given, message in (
            ("robust_jem", "--images 20", "no such model file"),
            (
                "robust_jem",
                "--images 20 --lengths 10,5",
                "--lengths 10,5: must be whole numbers of at least 1 that increase",
            ),
            ("robust_jem", "--images 20 --lengths 5,x", "--lengths 5,x: must be whole numbers of at least 1 that increase"),
            ("robust_jem", "--images 101", "--images 101: there are only 100 validation or training images"),
            ("robust_jem", "--vary combined.attack.epss=1", "unknown key 'epss' (did you mean eps?)"),
            ("at", "", "none of its recipes has a chain of steps"),
        )
    ),
    ("report at --results {out} --model {out}/m", {}, "`advebm robustness` makes it"),
    ("report at --results {bad}/results --model {out}/m", {}, "robustness.json: is damaged"),
    ("compare --results {out} --models {out}", {}, "no method has results; run `dvc repro -P`"),
    ("compare at --results {out}", {}, "but at, which lacks robustness.json"),
    ("compare at jen", {}, "no method 'jen' in tiny (did you mean jem?)"),
    ("train robust_gem --data {work}/data", {}, "no method 'robust_gem' in tiny (did you mean robust_jem?)"),
]

# a whole command line, the error message
LINES = [
    ("", "Missing command"),
    ("trian", "No such command 'trian'"),
    ("train", "Missing argument"),
    ("train at", "Missing option '--data'"),
    ("train at --data x --out {out} --sead 1", "No such option: --sead"),
    ("train at --data x --out {out} --seed one", "'--seed': "),
    ("train at --data x --out {out} --seed -1", "should be greater than or equal to 0"),
    ("fisher at --data x --model x --out {out} --batch 7", "No such option: --batch"),
    ("train at --data x --out {out} --study digitz", "no study 'digitz' (did you mean digits?)"),
    ("train at --data x --out {out} --params none.yaml", "none.yaml: no such file"),
    ("info {out}/none", "no such model file"),
    ("summary --study digitz", "digitz"),
    ("bench --out {out} --device gpu", "--device gpu: must be cpu, or cuda on a machine with a GPU"),
    ("stability --data x --gaussians x --out {out} --seeds 0", "should be greater than or equal to 1"),
    ("stability --data x --gaussians x --out {out} --method robust_gem", "no method 'robust_gem' in digits"),
    ("stability --data x --gaussians x --out {out} --set lr", "must be KEY=VALUE"),
    ("stability --data x --gaussians x --out {out} --set training=[", "training=[: [ is not YAML"),
    (
        "stability --data x --gaussians x --out {out} --method jem --set energy_l2.x=1",
        "energy_l2 of jem is 0.01, which has no keys",
    ),
    ("stability --data x --gaussians x --out {out} --set study.x=1", "unknown key 'study'"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """{work}: the prepared data, class Gaussians and judge of tiny; {bad}: invalid files."""
    work, bad = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("bad")
    for line in (
        "prepare --out {work}/data",
        "gaussians --data {work}/data --out {work}/g.safetensors",
        "train judge --data {work}/data --out {work}/judge",
    ):
        sys.argv = ["advebm", *line.format(work=work).split(), "--study", "tiny", "--quiet"]
        cli.main()
    np.savez(bad / "float.npz", x=np.zeros((4, 5, 5)))
    np.savez(bad / "empty.npz", x=np.zeros((0, 5, 5), np.uint8))
    np.savez(bad / "nox.npz", z=np.zeros(3))
    np.savez(bad / "labels.npz", x=np.zeros((4, 5, 5), np.uint8), y=np.zeros(3, int))
    np.savez(bad / "object.npz", x=np.array([{}, {}]))
    np.savez(bad / "good.npz", x=np.zeros((400, 5, 5), np.uint8))
    (bad / "cut.npz").write_bytes((bad / "good.npz").read_bytes()[:200])
    for name in ("pictures", "none", "results", "huge"):
        (bad / name).mkdir()
    (bad / "pictures" / "a.png").write_bytes(b"no picture")
    Image.new("1", (20000, 20000)).save(bad / "huge" / "a.png")
    (bad / "results" / "robustness.json").write_text("{")
    (bad / "cut.safetensors").write_bytes((work / "judge/model.safetensors").read_bytes()[:-100])
    for name in ("cut", "about", "lacks", "no_out", "one_class", "shape"):
        shutil.copytree(work / "data", bad / name)
    networks.save(bad / "one.safetensors", WideResNet(depth=10, width=1).build((1, 8, 8), 1))
    train = np.load(work / "data/train.npz")
    (bad / "cut/train.npz").write_bytes((bad / "cut/train.npz").read_bytes()[:-300])
    (bad / "about/about.json").write_text("{")
    about = disk.read_json(work / "data/about.json", "prepare")
    (bad / "lacks/about.json").write_text(json.dumps({key: about[key] for key in ("shape", "classes", "images")}))
    disk.write_json(bad / "shape/about.json", about | {"shape": [3, 32, 32]}, sealed=True)
    shutil.rmtree(bad / "no_out/out")
    np.savez(bad / "one_class/train.npz", x=train["x"][train["y"] != 1], y=train["y"][train["y"] != 1])
    return {"work": work, "bad": bad}


def error_of(line, monkeypatch, capsys, code=2, **places):
    """The one line that the command prints on stderr; it must exit with this code and leave every file unchanged."""

    def files():
        return {file: file.read_bytes() for place in places.values() for file in place.rglob("*") if file.is_file()}

    before = files()
    monkeypatch.setattr(sys, "argv", ["advebm", *line.format(**places).split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().err
    assert ended.value.code == code, shown
    assert shown.startswith("advebm: ") and shown.count("\n") == 1, shown
    assert files() == before
    return shown


def place(entry, path):
    """The dict that holds the last key of the path, and that key."""
    *parents, last = path.split(".")
    for key in parents:
        entry = entry.setdefault(key, {})
    return entry, last


def params_file(folder, changes, whole=None):
    """Write a params file whose study tiny has other values; returns the options that select it."""
    content = copy.deepcopy(PARAMS | (whole or {}))
    for path, value in changes.items():
        target, last = place(content["tiny"], path)
        target[last] = value
    folder.joinpath("params.yaml").write_text(yaml.safe_dump(content))
    return f" --study tiny --params {folder}/params.yaml"


@pytest.mark.parametrize(("path", "value", "message"), VALUES)
def test_wrong_values(tmp_path, monkeypatch, capsys, path, value, message):
    shown = error_of("check at" + params_file(tmp_path, {path: value}), monkeypatch, capsys, out=tmp_path)
    assert message in shown and f"params.yaml: tiny{''.join('.' + key for key in path.split('.')[:-1])}" in shown


@pytest.mark.parametrize("path", MISSING)
def test_missing_values(tmp_path, monkeypatch, capsys, path):
    entry = config.read(Path("params.yaml"), "tiny")
    target, last = place(entry, path)
    del target[last]
    more = params_file(tmp_path, {}, {"tiny": entry})
    assert re.search(rf"params.yaml: tiny.*lacks {last}", error_of("check at" + more, monkeypatch, capsys, out=tmp_path))


@pytest.mark.parametrize(("text", "message"), FILES)
def test_wrong_params_files(tmp_path, monkeypatch, capsys, text, message):
    (tmp_path / "params.yaml").write_text(text)
    line = f"train at --data x --out x --study tiny --params {tmp_path}/params.yaml"
    assert f"params.yaml: {message}" in error_of(line, monkeypatch, capsys, out=tmp_path)


@pytest.mark.parametrize(("whole", "message"), TOP)
def test_wrong_seeds_and_methods(tmp_path, monkeypatch, capsys, whole, message):
    assert message in error_of("check at" + params_file(tmp_path, {}, whole), monkeypatch, capsys, out=tmp_path)


@pytest.mark.parametrize(("line", "changes", "message"), STAGES)
def test_wrong_numbers_and_files_of_a_stage(places, tmp_path, monkeypatch, capsys, line, changes, message):
    (out := tmp_path / "out").mkdir()
    more = "" if "--out" in line else " --out {out}/new/file.json"
    shown = error_of(line + more + params_file(tmp_path, changes), monkeypatch, capsys, out=out, **places)
    assert message in shown


@pytest.mark.parametrize(("line", "message"), LINES)
def test_wrong_command_lines(tmp_path, monkeypatch, capsys, line, message):
    assert message in error_of(line, monkeypatch, capsys, out=tmp_path)


def test_what_the_machine_does_is_exit_code_1(places, tmp_path, monkeypatch, capsys):
    """Nothing can be written to a path below a file."""
    (file := tmp_path / "file").write_text("")
    for line in ("train standard --data {work}/data", "gaussians --data {work}/data", "prepare"):
        line = f"{line} --study tiny --out {file}/x --quiet"
        assert f"{file}" in error_of(line, monkeypatch, capsys, code=1, out=tmp_path, **places)


def test_a_measurement_that_another_process_writes_is_refused(places, tmp_path, monkeypatch, capsys):
    """Also by one that works in another project."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "elsewhere"))
    with project.locked(tmp_path / "ood.json"):
        monkeypatch.delenv("DVC_ROOT")
        line = f"ood standard {MODEL} {DATA} --study tiny --out {{out}} --quiet"
        shown = error_of(line, monkeypatch, capsys, code=1, out=tmp_path, **places)
    assert f"{tmp_path}/ood.json: another process is writing it" in shown
    assert not list(tmp_path.iterdir())


def test_a_network_that_has_diverged_is_refused_by_every_measurement(places, tmp_path, monkeypatch, capsys):
    net, _ = networks.load(places["work"] / "judge/model.safetensors")
    net.head.bias.data[0] = float("nan")
    networks.save(tmp_path / "nan.safetensors", net, method="standard")
    for command in ("robustness", "ood", "calibration", "landscape"):
        line = f"{command} standard --study tiny --model {tmp_path}/nan.safetensors --data {places['work']}/data"
        shown = error_of(f"{line} --out {tmp_path}/results", monkeypatch, capsys, out=tmp_path)
        assert f"{tmp_path}/nan.safetensors: head.bias is not finite: its training diverged" in shown
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kept", [0.0, 1.0e-12], ids=["zeros", "vanished"])
def test_a_dead_network_is_refused_wherever_it_is_read(places, tmp_path, monkeypatch, capsys, kept):
    net, _ = networks.load(places["work"] / "judge/model.safetensors")
    net.head.weight.data *= kept
    networks.save(tmp_path / "dead.safetensors", net, method="standard")
    given = f"{{work}}/data --study tiny --out {tmp_path}/results"
    for command in ("robustness standard --model", f"baselines {GAUSSIANS} --judge"):
        line = f"{command} {tmp_path}/dead.safetensors --data {given}"
        shown = error_of(line, monkeypatch, capsys, out=tmp_path, **places)
        assert f"{tmp_path}/dead.safetensors: gives every image the same outputs" in shown


def test_a_judge_near_chance_is_refused(places, tmp_path, monkeypatch, capsys):
    net, _ = networks.load(places["work"] / "judge/model.safetensors")
    net.head.weight.data = net.head.weight.data.roll(1, 0)  # it takes each class for the next
    networks.save(tmp_path / "j.safetensors", net)
    line = f"baselines {DATA} {GAUSSIANS} --judge {tmp_path}/j.safetensors --study tiny --out {tmp_path}/results"
    shown = error_of(line, monkeypatch, capsys, out=tmp_path, **places)
    assert re.search(
        r"j.safetensors: its accuracy on .* is 0\.0\d\d, chance 0.100; a judge needs 0.280: train it longer", shown
    )


def test_json_files_have_finite_numbers_only(tmp_path):
    with pytest.raises(ValueError, match=r"out.json: a.1.b is not a finite number"):
        disk.write_json(tmp_path / "out.json", {"a": [1.0, {"b": float("inf")}], "c": float("nan")})
    assert not (tmp_path / "out.json").exists()
