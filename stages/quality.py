"""Scores of a method's samples: `advebm quality`."""

from wiring import stage

if __name__ == "__main__":
    stage("quality")
