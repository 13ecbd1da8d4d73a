"""The report of Fisher scores."""

from collections.abc import Iterable

from advebm.evaluation.fisher import FisherResult
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, about


class FisherReport(Report[FisherResult]):
    columns = ("jfs", "mfs")

    def line(self, result: FisherResult) -> str:
        return ", ".join(f"{n} {s.score:.4g} +- {s.se:.2g} ({s.ways})" for n, s in result.scores.items())

    def metrics(self, result: FisherResult) -> Numbers:
        return {f"fisher/{name}/{key}": getattr(s, key) for name, s in result.scores.items() for key in ("score", "se")}

    def summary(self, result: FisherResult) -> Numbers:
        return dict.fromkeys(self.columns) | {f"{name[0]}fs": score.score for name, score in result.scores.items()}

    def note(self, results: Iterable[FisherResult]) -> str:
        return "jfs, mfs: joint and marginal Fisher score, of E(x, y) and of E(x), pixels in [0, 1]."

    def table(self, result: FisherResult) -> Table:
        rows: list[list] = []
        for name, s in (("joint, E(x, y)", result.joint), ("marginal, E(x)", result.marginal)):
            cells = [about(s.score, s.se), about(s.score_symmetric, s.se_symmetric), s.ways] if s else [None] * 3
            rows.append([name, *cells, result.n])
        note = "Zhu et al. 2021, Eq. 23 and 24; ±: standard error. That paper does not state the range of its pixels."
        return Table("Fisher scores", ["score", "pixels in [0, 1]", "pixels in [-1, 1]", "trace", "n"], rows, (note,))


REPORT = FisherReport()
