"""A study on a machine without DVC, MLflow and git, and its results taken home."""
