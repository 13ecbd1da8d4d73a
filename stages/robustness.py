"""Accuracy, clean and under attack: `advebm robustness`."""

from wiring import stage

if __name__ == "__main__":
    stage("robustness")
