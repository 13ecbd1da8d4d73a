"""Robust accuracy by AutoAttack: `advebm autoattack`."""

from wiring import stage

if __name__ == "__main__":
    stage("autoattack")
