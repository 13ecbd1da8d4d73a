"""The report of sample quality."""

from collections.abc import Iterable
from dataclasses import asdict

from advebm.evaluation.quality import QualityResult, Scores
from advebm.reports.base import Numbers, Report
from advebm.reports.tables import Table, about

SUMMARY = ("fid", "kid", "is_mean", "precision", "recall", "label_consistency")


class QualityReport(Report[QualityResult]):
    def line(self, result: QualityResult) -> str:
        shown = ", ".join(f"{name} FID {scores.fid:.3g}" for name, scores in result.named.items())
        return "\n".join([shown, *(f"warning: {warning}" for warning in self.warnings(result))])

    def warnings(self, result: QualityResult) -> list[str]:
        return [f"{name}: {sign}" for name, scores in result.named.items() for sign in scores.warnings]

    def metrics(self, result: QualityResult) -> Numbers:
        return {
            f"quality/{name}/{key}": value
            for name, scores in result.named.items()
            for key, value in asdict(scores).items()
            if not isinstance(value, str | list)
        }

    def table(self, result: QualityResult) -> Table:
        return samples(result.named | ends(result))


def summary(scores: Scores | None) -> Numbers:
    """The columns of the comparison for the samples of one recipe."""
    return {key: getattr(scores, key, None) for key in SUMMARY}


def ends(result: QualityResult) -> dict[str, Scores]:
    """The baselines, class Gaussians and real images, with their names in parentheses."""
    return {f"({name})": scores for name, scores in result.baselines.items()}


def samples(scores: dict[str, Scores]) -> Table:
    """A row for each set of images: recipes, the replay buffer, baselines."""
    header = ["images", "FID", "FID by class", "KID", "IS", "precision", "recall", "label consistency", "n", "reference n"]
    rows = [
        [
            name,
            about(s.fid, s.fid_se),
            s.fid_per_class and f"{min(s.fid_per_class):.4g} to {max(s.fid_per_class):.4g}",
            about(s.kid, s.kid_se),
            about(s.is_mean, s.is_std),
            *(s.precision, s.recall, s.label_consistency, s.n, s.reference_n),
            s.protocol.split(":")[0],
        ]
        for name, s in scores.items()
    ]
    notes = ["±: standard error of FID and KID; standard deviation over the splits of IS. FID by class: lowest to highest."]
    notes += protocols(scores.values())
    if any(entry.is_mean is None for entry in scores.values()):
        notes.append("IS: not available; the weights of the feature network have no classifier layer.")
    return Table("Samples", [*header, "protocol"], rows, tuple(notes))


def protocols(scores: Iterable[Scores]) -> list[str]:
    """A sentence for each protocol by which images were scored."""
    return [f"Protocol {protocol}." for protocol in dict.fromkeys(entry.protocol for entry in scores)]


REPORT = QualityReport()
