import json

import pytest
import yaml

from advebm import config
from advebm.evaluation.generation import start_images
from advebm.methods import METHODS

PARAMS = yaml.safe_load(config.Path("params.yaml").read_text())
STUDIES = [name for name, entry in PARAMS.items() if isinstance(entry, dict) and name not in ("launch", "toy2d")]


def test_schema_is_what_the_dataclasses_say():
    assert json.loads(config.SCHEMA.read_text()) == config.schema(), "run `python -m advebm.config`"


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_is_right_and_has_every_method(study):
    entry = config.read("params.yaml", study)
    assert PARAMS["methods"] == list(METHODS) == list(entry["sampling"])
    assert list(entry["models"]) == (["at_ebm"] if study == "cifar10-ood" else list(METHODS))
    for name in [*entry["models"], "judge"]:
        built = config.model(entry, name)
        assert type(built.method) is METHODS["standard" if name == "judge" else name]
        assert built.network.kind in built.method.networks and built.training.epochs
    for name in entry["models"]:
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


def test_flat():
    assert config.flat({"a": {"b": 1, "c": {"d": 2}}, "e": [1]}) == {"a.b": 1, "a.c.d": 2, "e": [1]}


def test_a_study_like_another_takes_the_parts_it_does_not_hold():
    ten, hundred = (config.read("params.yaml", study) for study in ("cifar10", "cifar100"))
    assert hundred["data"] == PARAMS["cifar100"]["data"] and "cifar100" not in hundred["data"]["out"]
    assert hundred | {"data": ten["data"]} == ten
