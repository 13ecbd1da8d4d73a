"""The model that MLflow serves: class, probabilities, energy, score and whether an image is in-distribution.

MLflow stores this file with the package and the model file, and runs it where the model is loaded ("models from code").
"""

import base64
import binascii
import io
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Served(PythonModel):
    def load_context(self, context):
        import advebm

        self.model = advebm.load(context.artifacts["model"])

    def predict(self, context, model_input, params=None):  # without type hints, which MLflow would take for its signature
        """A row for each image of the column `image`. Raises MlflowException, which a server answers with status 400."""
        import pandas as pd

        try:
            if "image" not in model_input:
                raise ValueError("the images must be in a column named image")
            x = [image(given) for cell in model_input["image"] for given in several(cell)]
            scores = self.model.score(x).tolist()
            numbers = {"energy": self.model.energy(x).tolist(), "score": scores}
            y, p = (of.tolist() for of in self.model.classify(x)) if self.model.classifies else [[None] * len(x)] * 2
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        where = ["in" if score >= self.model.threshold else "out" for score in scores]
        return pd.DataFrame({"class": y, "probabilities": p} | numbers | {"distribution": where})


def several(cell: Any) -> Any:
    """The images of a cell: MLflow puts a list of strings into a single one."""
    return (
        cell
        if hasattr(cell, "__len__") and len(cell) and isinstance(cell[0], str) and not isinstance(cell, str)
        else [cell]
    )


def image(given: Any) -> Any:
    """What advebm.Model takes: an array of nested lists, where integers are 0 to 255, or a picture of a file in base64."""
    import numpy as np
    from PIL import Image

    if isinstance(given, str):
        try:
            return Image.open(io.BytesIO(base64.b64decode(given, validate=True)))
        except (binascii.Error, OSError) as error:
            raise ValueError(f"an image given as text must be a file such as PNG in base64 ({error})") from error
    try:
        x = np.array(given)
    except ValueError:  # lists of one level have several lengths
        x = np.array(None)
    if x.dtype.kind not in "fiu":
        raise ValueError("an image must be nested lists of numbers, of one length at each level, or a file in base64")
    if x.dtype.kind == "i" and x.size and not (x.min() >= 0 and x.max() <= 255):
        raise ValueError(f"images of integers must be 0 to 255, not {x.min()} to {x.max()}")
    return x.astype(np.uint8) if x.dtype.kind == "i" else x


set_model(Served())
