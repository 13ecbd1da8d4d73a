"""What MLflow shows of a stage that uses a model."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advebm import config
from advebm.evaluation import MEASUREMENTS


def params(entry: dict[str, Any], study: str, method: str, stage: str, model: Path) -> dict[str, Any]:
    """STAGE.key, defaults included; for measurements of samples also sample.key. If DVC runs the stage, also what the model
    was trained by, as DVC sees to it that this is what params.yaml says."""
    from advebm import networks

    specs: dict[str, Any] = {}
    if stage != "sample":
        specs[stage] = asdict(config.build(MEASUREMENTS[stage].spec, entry[stage]))
    if stage == "sample" or MEASUREMENTS[stage].sampled:
        specs["sample"] = config.stage_specs(entry, method)["sample"]
    if "DVC_ROOT" in os.environ:
        seed = networks.header(model)["seed"]
        specs |= {"seed": seed, "study": study, "method": method, **config.trained_by(entry, method)}
    return config.flat(specs)
