"""Out-distribution detection."""

import csv
import json

from advebm import config
from advebm.commands import options as o


def ood(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    batch: o.Batch = 500,
    quiet: o.Quiet = False,
) -> None:
    """AUC of the model's energy, test images against each out-distribution set, standard and in the worst case.

    Writes ood.json, ood_roc.csv (ROC curves) and ood.png (histograms of the energy).
    """
    entry = config.read(params, study, method)
    from sklearn.metrics import roc_curve

    from advebm import figures, networks, progress, tracking
    from advebm.data import images
    from advebm.evaluation import ood as evaluation

    spec = config.build(evaluation.Ood, entry["ood"])
    net, _ = networks.load(model, networks.device())
    outside = {file.stem: images.load(file) for file in sorted((data / "out").glob("*.npz"))}
    numbers, values = evaluation.ood(
        config.model(entry, method).method.energy(net),
        images.load(data / "test.npz"),
        outside,
        spec,
        seed=o.EVALUATION_SEED,
        device=networks.device(),
        batch=batch,
        progress=progress.bar(f"ood {study}/{method}", quiet),
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "ood.json").write_text(json.dumps(numbers, indent=1) + "\n")
    with (out / "ood_roc.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["set", "false_positive_rate", "true_positive_rate"])
        for name, s in values.items():
            for case in ("out", "worst"):
                truth = [1] * len(s["in"]) + [0] * len(s[case])
                fpr, tpr, _ = roc_curve(truth, [*s["in"], *s[case]])
                label = name if case == "out" else f"{name}, worst case"
                writer.writerows((label, f"{a:.6g}", f"{b:.6g}") for a, b in zip(fpr, tpr, strict=True))
    with tracking.run(stage="ood", study=study, method=method, checkpoint=images.digest(model)) as run:
        run.metrics({f"ood/{name}/{key}": v for name, entry in numbers.items() for key, v in entry.items()})
        run.artifact(figures.histograms(values, numbers, out / "ood.png", f"{study} {method}"), "ood")
    print(f"wrote {out}: " + ", ".join(f"{n} {v['auc']:.3f} (worst {v['auc_worst']:.3f})" for n, v in numbers.items()))
