import copy
import json

import pytest
import yaml

from advebm import config
from advebm.commands.sample import start_images
from advebm.methods import METHODS

PARAMS = yaml.safe_load(config.Path("params.yaml").read_text())
STUDIES = [name for name, entry in PARAMS.items() if isinstance(entry, dict) and name != "toy2d"]


def test_schema_is_what_the_dataclasses_say():
    assert json.loads(config.SCHEMA.read_text()) == config.schema(), "run `python -m advebm.config`"


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_right_and_has_every_method(study):
    entry = config.read("params.yaml", study)
    assert list(entry["models"]) == PARAMS["methods"] == list(METHODS) == list(entry["sampling"])
    for name in [*METHODS, "judge"]:
        built = config.model(entry, name)
        assert type(built.method) is METHODS["standard" if name == "judge" else name]
        assert built.network.kind in built.method.networks and built.training.epochs
    for name in METHODS:
        for recipe in config.recipes(entry, name).values():
            assert recipe.start in (None, *start_images(type("G", (), {"sample": None, "shape": ()})()))
            assert not recipe.guided or config.model(entry, name).method.outputs(10) == 10


def test_models_take_the_studys_network_and_training_but_for_what_they_change():
    entry = config.read("params.yaml", "cifar10")
    jem, jempp = config.model(entry, "jem"), config.model(entry, "jempp")
    assert (jem.network.norm, jempp.network.norm) == ("none", "batch") and jem.network.width == jempp.network.width == 10
    assert (jem.training.optimizer.name, jempp.training.optimizer.name) == ("adam", "sgd")
    assert jem.training.augmentation == jempp.training.augmentation


def test_papers_numbers_are_converted():
    entry = config.read("params.yaml", "cifar10")
    jem, jempp, robust = (config.model(entry, name) for name in ("jem", "jempp", "robust_jem"))
    assert jem.method.sampler.step_size == 1 / 4 and jem.method.sampler.noise == 0.01 / 2
    assert jempp.method.sampler.step_size == 0.2 / 4 and jempp.method.sampler.clamp_grad == 1 * 2
    assert robust.method.attack.eps == 0.1 / 2 and robust.method.attack.steps == 15
    assert jem.training.augmentation.noise == 0.03 / 2 and entry["gaussians"]["ridge"] == 1e-4 / 4
    assert entry["robustness"]["attacks"]["pgd20"]["eps"] == 8 / 255


WRONG = [
    ("network.wdith", 2, "unknown key 'wdith' (did you mean width?)"),
    ("network.depth", 11, "11 is not one of"),
    ("network.norm", "layer", "'layer' is not one of ['none', 'batch', 'group']"),
    ("network.width", "wide", "'wide' is not of type 'integer'"),
    ("training.optimizer.lr", "1e-4", "'1e-4' is text to YAML; write 0.0001"),
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
    ("models.robust_jem.positives", "dirty", "'dirty' is not one of ['clean', 'adversarial']"),
    ("sampling.at.targeted.recipe", "attack", "'attack' is not one of"),
    ("sampling.at.targeted.attack", "strong", "'strong' is not of type 'object'"),
    ("sampling.robust_jem.combined.contrast", 2, "2 is greater than the maximum of 1"),
    ("data.test", "many", "'many' is not valid under any of the given schemas"),
    ("data.out", ["uniform"], "['uniform'] is not of type 'object'"),
    ("quality.features", "vgg", "'vgg' is not one of ['judge', 'inception']"),
    ("samples", 0, "0 is less than the minimum of 1"),
    ("robustness.attacks.pgd20.eps", float("inf"), "inf is not a finite number"),
    ("network", None, "None is not of type 'object'"),
    ("models", ["at"], "['at'] is not of type 'object'"),
    ("data.out", {}, "{} should be non-empty"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_what_is_wrong_is_told(tmp_path, path, value, message):
    params = copy.deepcopy(PARAMS)
    *parents, last = path.split(".")
    target = params["tiny"]
    for key in parents:
        target = target[key]
    target[last] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=rf"params.yaml: tiny.{'.'.join(parents)}") as error:
        config.read(tmp_path / "params.yaml", "tiny", "at")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "part", ["data", "models", "sampling", "judge", "ood", "models.at.attack", "training.optimizer.name"]
)
def test_what_is_missing_is_told(tmp_path, part):
    params = copy.deepcopy(PARAMS)
    *parents, last = part.split(".")
    target = params["tiny"]
    for key in parents:
        target = target[key]
    del target[last]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=rf"params.yaml: tiny.*lacks {last}"):
        config.read(tmp_path / "params.yaml", "tiny", "at")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "abc"}, "seed must be an integer of at least 0, not 'abc'"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"methods": ["at", "jam"]}, "methods must be a list of standard, at"),
        ({"methods": "at"}, "methods must be a list of standard, at"),
    ],
)
def test_what_the_pipeline_reads_is_checked(tmp_path, change, message):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS | change))
    with pytest.raises(ValueError, match=message):
        config.check_top(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["", "[1, 2]", "study: tiny", "tiny: [}"])
def test_files_that_hold_no_studies_are_told(tmp_path, text):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"params.yaml: (holds no studies|is not YAML)"):
        config.read(tmp_path / "params.yaml", "tiny")


def test_unknown_names_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"no study 'digitz' .did you mean digits"):
        config.read("params.yaml", "digitz")
    with pytest.raises(ValueError, match=r"no method 'robustjem' in tiny .did you mean robust_jem"):
        config.read("params.yaml", "tiny", "robustjem")
    with pytest.raises(ValueError, match="no such file"):
        config.read(tmp_path / "params.yaml", "tiny")
    (tmp_path / "bad.yaml").write_text("tiny: {a: [}")
    with pytest.raises(ValueError, match="is not YAML"):
        config.read(tmp_path / "bad.yaml", "tiny")


def test_flat():
    assert config.flat({"a": {"b": 1, "c": {"d": 2}}, "e": [1]}) == {"a.b": 1, "a.c.d": 2, "e": [1]}


def test_cifar100_is_cifar10_on_other_images():
    ten, hundred = (config.read_yaml("params.yaml")[study] for study in ("cifar10", "cifar100"))
    assert hundred["data"]["source"] == "cifar100" and hundred["data"]["out"]["cifar10"] == "cifar10"
    assert {part: hundred[part] for part in hundred if part != "data"} == {
        part: ten[part] for part in ten if part != "data"
    }
