"""DVC's experiments in the project's folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo


@contextmanager
def repository() -> Iterator["Repo"]:
    """The project as DVC sees it. Raises ValueError in another folder, BlockingIOError while another process holds it."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        repo = Repo()
    except DvcException as error:
        raise ValueError(f"{error}; run in the project's folder") from error
    try:
        with repo:
            yield repo
    except LockError:
        raise BlockingIOError("another DVC process is running in this folder; wait for it, or stop it") from None
