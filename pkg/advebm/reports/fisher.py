"""The report of Fisher scores."""

from collections.abc import Iterable

from advebm.evaluation.fisher import FisherResult, Score
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, about


class FisherReport(Report[FisherResult]):
    columns = ("jfs", "mfs")

    def line(self, result: FisherResult) -> str:
        return ", ".join(f"{n} {s.score:.4g} +- {s.se:.2g} ({s.ways})" for n, s in both(result).items() if s)

    def metrics(self, result: FisherResult) -> Numbers:
        found = {name: score for name, score in both(result).items() if score}
        return {f"fisher/{name}/{key}": getattr(s, key) for name, s in found.items() for key in ("score", "se")}

    def summary(self, result: FisherResult) -> Numbers:
        return {f"{name[0]}fs": score.score if score else None for name, score in both(result).items()}

    def note(self, results: Iterable[FisherResult]) -> str:
        return "jfs, mfs: joint and marginal Fisher score, pixels in [0, 1]."

    def table(self, result: FisherResult) -> Table:
        """A row for the joint and one for the marginal score."""
        rows: list[list] = []
        for name, s in (("joint, E(x, y)", result.joint), ("marginal, E(x)", result.marginal)):
            cells = [about(s.score, s.se), about(s.score_symmetric, s.se_symmetric), s.ways] if s else [None] * 3
            rows.append([name, *cells, result.n])
        note = "Zhu et al. 2021, Eq. 23 and 24; ±: standard error. That paper does not state the range of its pixels."
        return Table("Fisher scores", ["score", "pixels in [0, 1]", "pixels in [-1, 1]", "trace", "n"], rows, (note,))


def both(result: FisherResult) -> dict[str, Score | None]:
    return {"joint": result.joint, "marginal": result.marginal}


REPORT = FisherReport()
