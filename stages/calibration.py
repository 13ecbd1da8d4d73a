"""Calibration of a method's classifier: `advebm calibration`."""

from wiring import stage

if __name__ == "__main__":
    stage("calibration")
