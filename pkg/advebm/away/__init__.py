"""Run a study on a machine without DVC, MLflow and git, and receive its results at home."""
