"""params.yaml is read as DVC reads it."""

from difflib import ndiff
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import parse_yaml

from advebm import config
from advebm.runtime import yaml12

SCALARS = """1e-05 1e-5 1.0e-5 5e-6 1E3 1e+3 .5 5. -1e-3 +1 010 0o17 0x1F 1:30 yes no on off true True TRUE false null ~
    .inf -.Inf 1.5e3 .5e-3 1e5.0 npz:a/b.npz abc 0.1 12 '1e-5' "1" 1.2.3 -x e5"""


@pytest.mark.parametrize("text", [*SCALARS.split(), ""])
def test_scalars_are_what_dvc_takes_them_for(text):
    ours, theirs = yaml12.load(f"a: {text}")["a"], parse_yaml(f"a: {text}", "params.yaml")["a"]
    assert type(ours) is type(theirs) and ours == theirs


@pytest.mark.parametrize("written", ["0.00001", "1e-05", "1e-5", "1.0e-5", "5e-6", "1E-7"])
def test_rates_below_1e_4_can_be_set_in_every_form(tmp_path, written):
    """DVC writes 1e-05 for `-S digits.training.optimizer.lr=0.00001`."""
    params = tmp_path / "params.yaml"
    mine = f"mine: {{like: tiny, training: {{optimizer: {{lr: {written}}}}}}}"
    params.write_text(f"{Path('params.yaml').read_text()}\n{mine}\n")
    entry = config.read(params, "mine")
    assert entry["training"]["optimizer"]["lr"] == float(written)
    config.change_models(entry, ["at"], [f"training.optimizer.lr={written}"])
    assert entry["models"]["at"]["training"]["optimizer"]["lr"] == float(written)


def test_a_changed_number_is_one_changed_line(tmp_path):
    """`-S` makes DVC write the whole file; it has that form already."""
    params, before = tmp_path / "params.yaml", Path("params.yaml").read_text()
    params.write_text(before)
    apply_overrides(params, ["seed=3", "study=tiny", "digits.models.robust_jem.attack.eps=0.15"])
    changed = [line for line in ndiff(before.splitlines(), params.read_text().splitlines()) if line[0] in "+-"]
    keys = [line[2:].split(":")[0].strip() for line in changed]
    assert keys == ["study", "study", "seed", "seed", "robust_jem", "robust_jem"], "\n".join(changed)
