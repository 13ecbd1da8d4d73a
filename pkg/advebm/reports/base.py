"""The interface of a measurement's report."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from advebm.evaluation.result import Result
from advebm.reports.tables import Table

R = TypeVar("R", bound=Result)
Numbers = dict[str, float | None]


class Report(Generic[R]):
    """How one measurement is shown. Subclasses have no state."""

    caption = ""  # of its picture on the page
    sheets: ClassVar[dict[str, str]] = {}  # captions of its sheets of images NAME_KEY.png, by key
    columns: tuple[str, ...] = ()  # of comparison.json, null where it was not measured

    def line(self, result: R) -> str:
        """What its command prints."""
        raise NotImplementedError

    def metrics(self, result: R) -> Numbers:
        """Its numbers in MLflow, by name."""
        raise NotImplementedError

    def table(self, result: R) -> Table:
        """Its section of a method's report."""
        raise NotImplementedError

    def warnings(self, result: R) -> list[str]:
        """What casts doubt on its numbers, for the section "Warnings" of a method's report."""
        return []

    def picture(self, result: R, drawn: Any, path: Path, title: str) -> Path:
        """Draw its picture and return the path; drawn: the second value of `measure`."""
        raise NotImplementedError

    def pictures(self, result: R, drawn: Any, path: Path, title: str) -> list[Path]:
        """Draw its picture and its sheets and return their paths; path: that of the picture."""
        return [self.picture(result, drawn, path, title)]

    def summary(self, result: R) -> Numbers:
        """Its columns of the comparison of methods."""
        return {}

    def note(self, results: Iterable[R]) -> str:
        """A sentence about these columns, for the results of all methods."""
        return ""
