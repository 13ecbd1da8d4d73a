"""The tables of a method, one for each measurement."""

from collections.abc import Iterable
from typing import Any

from advebm.reports.results import Found, scored
from advebm.reports.tables import Table, about, within


def sections(found: Found) -> list[Table]:
    """Everything that was measured of a method."""
    parts = [
        (recoveries, found["training"]),
        (accuracy, found["robustness"]),
        (autoattack, found["autoattack"]),
        (samples, scored(found) | ends(found)),
        (detection, found["ood"]),
        (fisher_scores, found["fisher"]),
        (calibration, found["calibration"]),
        (neighbours, found["neighbours"]),
        (landscape, found["landscape"]),
        (interpolation, found["interpolation"]),
    ]
    return [make(content) for make, content in parts if content]


def recoveries(training: dict[str, Any]) -> Table:
    """What happened when training diverged."""
    events = training["recoveries"]
    rows = [[i, event["back_to"], event["event"]] for i, event in enumerate(events, 1)]
    note = "Each time it went on from that step on other random numbers, by smaller steps and longer chains."
    return Table(f"Training diverged {len(events)} times", ["recovery", "back to step", "why"], rows, (note,))


def ends(found: Found) -> dict[str, dict[str, Any]]:
    """The quality of the class Gaussians and of real images, the two ends of the scale, named so that it shows."""
    return {f"({name})": entry for name, entry in found["quality"]["baselines"].items()}


def accuracy(robust: dict[str, Any]) -> Table:
    """A line for each attack."""
    n = robust["n"]
    keys = ("norm", "eps", "ascends", "steps", "restarts")
    rows = [["none", *[None] * len(keys), within(robust["clean"], robust.get("clean_ci")), n]]
    for name, attack in robust["attacks"].items():
        rows.append([name, *(attack[key] for key in keys), within(attack["accuracy"], attack.get("ci")), n])
    header = ["attack", "norm", "radius", "ascends", "steps", "restarts", "accuracy [95%]", "n"]
    return Table("Accuracy on test images", header, rows, warnings(robust))


def autoattack(found: dict[str, Any]) -> Table:
    """A line for each norm."""
    attacks = ("clean", "apgd-ce", "apgd-t", "fab-t", "square")
    rows = []
    for norm, a in found.items():
        if isinstance(a, dict):
            rows.append([norm, a["eps"], *(a[key] for key in attacks), within(a["accuracy"], a.get("ci")), found["n"]])
    note = "AutoAttack, standard version: the accuracy that is left after each attack and those before it."
    return Table("AutoAttack", ["norm", "radius", *attacks, "all [95%]", "n"], rows, (note, *warnings(found)))


def warnings(found: dict[str, Any]) -> tuple[str, ...]:
    """Signs of masked gradients, a sentence each."""
    return tuple(f"Warning of masked gradients: {warning}." for warning in found.get("warnings", []))


def samples(scores: dict[str, dict[str, Any]]) -> Table:
    """The quality of images by name: recipes, the replay buffer, baselines."""
    header = ["images", "FID", "FID by class", "KID", "IS", "precision", "recall", "label consistency", "n", "reference n"]
    rows = []
    for name, s in scores.items():
        by_class = s.get("fid_per_class")
        rows.append(
            [
                name,
                about(s["fid"], s.get("fid_se")),
                by_class and f"{min(by_class):.4g} to {max(by_class):.4g}",
                about(s["kid_mean"], s.get("kid_std")),
                about(s["is_mean"], s.get("is_std")),
                *(s.get(key) for key in ("precision", "recall", "label_consistency", "n", "reference_n")),
                s["protocol"].split(":")[0],
            ]
        )
    notes = [
        "±: standard error of FID; deviation over the subsets of KID and over the splits of IS. FID by class: from the "
        "lowest to the highest."
    ]
    notes += protocols(scores.values())
    if any(entry["is_mean"] is None for entry in scores.values()):
        notes.append("IS: not available; the weights of FID's network that were used have no classifier layer.")
    return Table("Samples", [*header, "protocol"], rows, tuple(notes))


def protocols(scores: Iterable[dict[str, Any]]) -> list[str]:
    """How images were scored, a sentence for each way."""
    return [f"Protocol {protocol}." for protocol in dict.fromkeys(entry["protocol"] for entry in scores)]


def detection(sets: dict[str, dict[str, Any]]) -> Table:
    """A line for each set and score, with the worst case by each norm."""
    lines = [(name, score, numbers) for name, entry in sets.items() for score, numbers in entry["scores"].items()]
    worst = {norm: case for *_, numbers in lines for norm, case in numbers["worst"].items()}
    rows = []
    for name, score, numbers in lines:
        cases = [numbers, *(numbers["worst"].get(norm, {}) for norm in worst)]
        cells = [cell for case in cases for cell in (within(case.get("auc"), case.get("auc_ci")), case.get("fpr95"))]
        own = " (own)" if score == sets[name]["score"] else ""
        rows.append([name, score + own, *cells, sets[name]["n"]])
    header = ["set", "score", "AUC [95%]", "FPR95"]
    for norm, case in worst.items():
        header += [f"worst AUC, {norm} {case['eps']:.3g}", f"worst FPR95, {norm} {case['eps']:.3g}"]
    attacks = dict.fromkeys(f"{norm} by {case['attack']}" for *_, n in lines for norm, case in n["worst"].items())
    note = (
        "FPR95: how many out-distribution images pass where 95% of test images do. (own): the score that the detector "
        "uses. Worst cases: each out-distribution image is moved within the radius to where the score takes it for "
        f"data: {'; '.join(attacks)}."
    )
    return Table("Out-distribution images", [*header, "n"], rows, (note,))


def fisher_scores(found: dict[str, Any]) -> Table:
    """Joint and marginal."""
    rows = []
    for name, s in (("joint, E(x, y)", found["joint"] or {}), ("marginal, E(x)", found["marginal"] or {})):
        both = about(s.get("score"), s.get("se")), about(s.get("score_symmetric"), s.get("se_symmetric"))
        rows.append([name, *both, s.get("ways"), found["n"]])
    note = "JT, Eq. 23 and 24; ±: standard error. JT does not state the range of its pixels."
    return Table("Fisher scores", ["score", "pixels in [0, 1]", "pixels in [-1, 1]", "trace", "n"], rows, (note,))


def calibration(found: dict[str, Any]) -> Table:
    """One line."""
    row = [found["accuracy"], found["confidence"], within(found["ece"], found.get("ece_ci")), found["n"]]
    return Table("Calibration", ["accuracy", "mean confidence", "ECE [95%]", "n"], [row])


def neighbours(found: dict[str, Any]) -> Table:
    """A line for each recipe, and the test images to compare with."""
    rows = []
    for name, entry in found.items():
        l2, ssim = entry["l2"], entry["ssim"]
        rows.append([name, l2["min"], l2["q05"], l2["median"], entry["n"], ssim["max"], ssim["median"], ssim["n"]])
    header = ["images", "L2, least", "L2, 5%", "L2, median", "n", "SSIM, most", "SSIM, median", "n of SSIM"]
    note = "To the nearest training image. Copies would be nearer than test images are; of more images the least is lower."
    return Table("Nearest training images", header, rows, (note,))


def landscape(found: dict[str, Any]) -> Table:
    """One line."""
    note = "Mean rise of the energy from a test image to a circle around it, in a plane of random directions (JT, Fig. 2)."
    return Table("Energy landscape", ["radius", "rise", "n"], [[found["radius"], found["rise"], found["images"]]], (note,))


def interpolation(found: dict[str, Any]) -> Table:
    """A line for each recipe."""
    rows = [[name, entry["smoothness"]] for name, entry in found.items()]
    note = "The largest step of a row of images over the distance of its ends, median over rows; 1 where a row jumps."
    return Table("Interpolation", ["recipe", "smoothness"], rows, (note,))
