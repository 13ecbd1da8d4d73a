"""The papers' tables, with our numbers next to the published ones."""

from pathlib import Path
from typing import Any

from advebm.evaluation.ood import OodResult
from advebm.evaluation.robustness import RobustnessResult, UnderAttack
from advebm.evaluation.scores import ScoresResult
from advebm.reports.quality import protocols
from advebm.reports.results import Found
from advebm.reports.tables import Beside, Table, text
from advebm.runtime import yaml12

PUBLISHED = Path(__file__).with_name("published.yaml")
DATA = "cifar10"  # of rows that name none
RADIUS = 1.0  # L2, of the worst cases in Yin, Li and Rohde 2022, Table 4
ATTACK = "apgd, 100 steps, 5 restarts"  # and the attack


def papers(study: str, used: dict[str, Any], found: dict[str, Found], whole: bool = True) -> list[Table]:
    """Notes, then the papers' tables with the numbers found for each method.

    used: the study's entry for data in params.yaml. whole: include rows of methods that were not found. A study on data
    that a paper reports gets the rows for that data, any other study those for CIFAR-10. A table that compares methods
    (`others`) has rows for all that were found.
    """
    published = yaml12.load(PUBLISHED.read_text())
    known = list(dict.fromkeys(row.get("data", DATA) for entry in published for row in entry["rows"]))
    data = used["source"] if used["source"] in known else DATA
    tables = []
    for entry in published:
        rows = [row for row in entry["rows"] if row.get("data", DATA) == data and (whole or row["method"] in found)]
        if rows and entry.get("others"):
            others = [method for method in found if method not in [row["method"] for row in rows]]
            rows += [{"row": method, "method": method, "recipes": [], "printed": {}} for method in others]
        lines = [line(row, list(entry["columns"]), found.get(row["method"])) for row in rows]
        if lines:
            header = ["model", "ours", *entry["columns"].values(), "note"]
            tables.append(Table(entry["name"], header, lines, (entry["about"],), level=3))
    if not tables:
        return [Table("Published", [], [], ("The papers' tables do not include this method.",))]
    same = f"Study {study} uses the papers' data."
    other = f"Only studies of {' and '.join(known)} can be compared with the papers; {study} cannot."
    alike = [name for name, source in used["out"].items() if origin(source) == origin(used["outliers"])]
    seen = f" Methods trained with outliers have seen images like those of {', '.join(alike)}." if alike else ""
    notes = (
        "RJ: Korst and Asadulaev 2022; JT: Zhu et al. 2021; AE: Yin, Li and Rohde 2022.",
        f"Each cell: ours │ published. Accuracies and AUC are in percent. {same if used['source'] in known else other}",
        f"Out-distribution sets of {study}: {'; '.join(f'{name}, {source}' for name, source in used['out'].items())}. "
        f"Outliers in training: {used['outliers']}.{seen}",
        "Published IS and FID use up to 50,000 images and Inception; each paper has its own protocol.",
        *protocols(entry for content in found.values() for entry in content.samples.values()),
    )
    return [Table("Published, next to ours", [], [], notes), *tables]


def printed_fid() -> dict[tuple[str, str], str]:
    """FID on CIFAR-10 as printed in the papers, by method and recipe, with the first table that has it."""
    found: dict[tuple[str, str], str] = {}
    for entry in yaml12.load(PUBLISHED.read_text()):
        for row in entry["rows"]:
            for recipe in row["recipes"] if "fid" in row["printed"] and row.get("data", DATA) == DATA else ():
                found.setdefault((row["method"], recipe), f"{row['printed']['fid']} ({entry['name']})")
    return found


def origin(source: str) -> str:
    """A data source without its file name."""
    return source.rpartition("/")[0] or source


def line(row: dict[str, Any], columns: list[str], found: Found | None) -> list[Any]:
    """A row of a paper's table; our numbers are for the first of its recipes that was measured."""
    name, numbers = None, {}
    if found is not None:
        recipe = next((recipe for recipe in row["recipes"] if recipe in found.samples), None)
        name = row["method"] if recipe is None else f"{row['method']}/{recipe}"
        numbers = ours(found, recipe, row.get("score"))
    cells = [Beside(numbers.get(column), row["printed"].get(column)) for column in columns]
    return [row["row"], name, *cells, row.get("note", "")]


def ours(found: Found, recipe: str | None, score: str | None = None) -> dict[str, float | str | None]:
    """The numbers of a method and of a recipe's samples, by the columns of published.yaml; score: the one that detects
    out-distribution images, by default the detector's own."""
    robust, outside = found[RobustnessResult], found[OodResult]
    samples, attacks = found.samples.get(recipe or ""), list(robust.attacks.values())
    pgd = next((a for a in attacks if a.norm == "linf" and a.ascends == "ce"), None)
    ordinary, energy = both_attacks(attacks)
    numbers: dict[str, float | str | None] = {
        "clean": percent(robust.clean),
        "robust": percent(pgd.accuracy if pgd else None),
        "ordinary": percent(ordinary.accuracy if ordinary else None),
        "energy": percent(energy.accuracy if energy else None),
        "is": samples.is_mean if samples else None,
        "fid": samples.fid if samples else None,
    }
    for column, kind in (("jfs", "joint"), ("mfs", "marginal")):
        fisher = getattr(found.of.get("fisher"), kind, None)
        numbers[column] = fisher and f"{text(fisher.score)}; {text(fisher.score_symmetric)}"
    others = found.get(ScoresResult)
    for name, entry in outside.named.items():
        attacked = others.named[name].scores if others and name in others.named else {}
        scored = (entry.scores | attacked).get(score or entry.score)
        worst = scored.attacks.get("apgd") if scored else None
        same = worst and (worst.norm, worst.eps, worst.attack) == ("l2", RADIUS, ATTACK)
        numbers[name] = percent(scored.auc if scored else None)
        numbers[f"{name} worst"] = percent(worst.auc if worst and same else None)
    return numbers


def both_attacks(attacks: list[UnderAttack]) -> tuple[UnderAttack | None, UnderAttack | None]:
    """The two attacks of Zhu et al. 2021, Table 1: the first that ascends the cross-entropy and has an energy attack of the
    same norm and radius, and that one; without such a pair, the first that ascends the cross-entropy, and None."""
    ordinary = [attack for attack in attacks if attack.ascends == "ce"]
    for a in ordinary:
        for b in attacks:
            if b.ascends == "energy" and (a.norm, a.eps) == (b.norm, b.eps):
                return a, b
    return next(iter(ordinary), None), None


def percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
