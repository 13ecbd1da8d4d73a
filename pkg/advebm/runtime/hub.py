"""Models on the Hugging Face Hub, by their address `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`."""

import re
from pathlib import Path

ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # a Path has one of the two slashes
FILES = ["model.safetensors", "gaussians.safetensors", "config.json"]  # the Hub counts downloads by the last


def folder(address: str) -> Path:
    """The folder of a model's files in the Hub's cache; what is not there yet is downloaded. A revision is a branch, a tag
    or a commit. Raises ValueError for what is no address, FileNotFoundError where the Hub has no such model, OSError where
    it does not answer, and ImportError without the package huggingface_hub."""
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address}: is no model on the Hub; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = found.groups()
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except HFValidationError as error:
        raise ValueError(f"{address}: {error}") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"revision {revision} of {name}" if isinstance(error, RevisionNotFoundError) else f"model {name}"
        raise FileNotFoundError(
            f"{address}: the Hub has no {what}, or it is private and you have not logged in (`hf auth login`)"
        ) from error
    except Exception as error:  # its errors of the network are of several packages
        raise OSError(f"{address}: could not be downloaded ({' '.join(str(error).split())})") from error
