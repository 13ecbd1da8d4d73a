"""The report of the scores that are not the detector's own."""

from advebm.evaluation.scores import ScoresResult
from advebm.reports.base import Numbers, Report
from advebm.reports.ood import by_score, detections, each, loose
from advebm.reports.tables import Table


class ScoresReport(Report[ScoresResult]):
    def line(self, result: ScoresResult) -> str:
        return ", ".join(
            f"{name} {score} {scored.auc:.3f} (worst at most {case.auc:.3f})"
            for name, score, scored in by_score(result)
            for case in scored.worst.values()
        )

    def metrics(self, result: ScoresResult) -> Numbers:
        return {k: v for name, score, scored in by_score(result) for k, v in each(f"scores/{name}/{score}", scored).items()}

    def warnings(self, result: ScoresResult) -> list[str]:
        return loose(by_score(result))

    def table(self, result: ScoresResult) -> Table:
        lines = [(name, score, scored, result.named[name].n) for name, score, scored in by_score(result)]
        return detections("Detection by the other scores", lines, "Each score is attacked by itself.", "its JSON file")


REPORT = ScoresReport()
