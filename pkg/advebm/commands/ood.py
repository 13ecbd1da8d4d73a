"""Out-distribution detection."""

from advebm import config
from advebm.commands import options as o
from advebm.commands.measuring import keep, network, resumable


def ood(
    method: o.Method,
    model: o.ModelFile,
    data: o.Prepared,
    out: o.OutFolder,
    study: o.Study = "digits",
    params: o.Params = o.PARAMS,
    quiet: o.Quiet = False,
) -> None:
    """AUC and FPR at 95% TPR, test images against each out-distribution set, by each score, standard and in the worst case.

    Writes ood.json and ood.png (histograms of the energy, ROC curves, AUC against the attack's radius).
    """
    entry = config.read(params, study, method)
    from dataclasses import replace

    from advebm import figures, networks
    from advebm.data import images
    from advebm.evaluation import ood as evaluation
    from advebm.runtime import progress
    from advebm.runtime.parts import SEED

    spec = config.build(evaluation.Ood, entry["ood"])
    for other in spec.n_of:
        if other not in entry["models"]:
            raise ValueError(f"{params}: {study}.ood.n_of: no method {other!r}; there are {', '.join(entry['models'])}")
    spec = replace(spec, n=spec.n_of.get(method, spec.n))
    net = network(model, data)
    outside = {file.stem: images.load(file) for file in sorted((data / "out").glob("*.npz"))}
    if not outside:
        raise FileNotFoundError(f"{data / 'out'}: no out-distribution sets there; `advebm prepare` makes them")
    with resumable("ood", out / "ood.json", entry, method, model, data) as state:
        numbers, values = evaluation.ood(
            net,
            config.model(entry, method).method.detector,
            images.load(data / f"{spec.split}.npz"),
            outside,
            spec,
            seed=SEED,
            device=networks.device(),
            part=state.part,
            progress=progress.bar(f"ood {study}/{method}", quiet),
        )
        with keep("ood", out / "ood.json", numbers, entry, study, method, model) as run:
            for name, found in numbers.items():
                run.metrics({f"ood/{name}/{key}": found[key] for key in ("auc", "auc_worst", "fpr95", "fpr95_worst", "n")})
                for score, measured in found["scores"].items():
                    run.metrics({f"ood/{name}/{score}/{key}": measured[key] for key in ("auc", "fpr95")})
                    run.metrics({f"ood/{name}/{score}/worst_{norm}": w["auc"] for norm, w in measured["worst"].items()})
            run.artifact(figures.detection(values, numbers, out / "ood.png", f"{study} {method}"), "ood")
    print(f"wrote {out}: " + ", ".join(f"{n} {v['auc']:.3f} (worst {v['auc_worst']:.3f})" for n, v in numbers.items()))
