"""The report of AutoAttack."""

from collections.abc import Iterable

from advebm.evaluation.autoattack import ATTACKS, AutoAttackResult
from advebm.reports.base import Numbers, Report
from advebm.reports.robustness import counts, masked, printed
from advebm.reports.tables import Table, within


class AutoAttackReport(Report[AutoAttackResult]):
    columns = ("autoattack linf", "autoattack l2")

    def line(self, result: AutoAttackResult) -> str:
        return printed({norm: ball.accuracy for norm, ball in result.balls.items()}, result.warnings)

    def metrics(self, result: AutoAttackResult) -> Numbers:
        return {f"autoattack/{norm}": ball.accuracy for norm, ball in result.balls.items()}

    def summary(self, result: AutoAttackResult) -> Numbers:
        return {f"autoattack {norm}": ball.accuracy for norm, ball in result.balls.items()}

    def note(self, results: Iterable[AutoAttackResult]) -> str:
        results = list(results)
        radii = {norm: ball.eps for result in results for norm, ball in result.balls.items()}
        described = ", ".join(f"{norm} {eps:.3g}" for norm, eps in radii.items())
        return f"autoattack: at most, {described}, {counts(result.n for result in results)} images."

    def table(self, result: AutoAttackResult) -> Table:
        rows = [[n, b.eps, *b.left.values(), within(b.accuracy, b.ci), result.n] for n, b in result.balls.items()]
        note = "AutoAttack, standard version: the accuracy, at most, after each attack and all attacks before it."
        header = ["norm", "radius", "clean", *ATTACKS, "all [95%]", "n"]
        return Table("AutoAttack", header, rows, (note,))

    def warnings(self, result: AutoAttackResult) -> list[str]:
        return [f"AutoAttack: {warning}" for warning in masked(result.warnings)]


REPORT = AutoAttackReport()
