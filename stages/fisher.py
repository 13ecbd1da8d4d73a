"""Fisher scores of a method's energies: `advebm fisher`."""

from wiring import stage

if __name__ == "__main__":
    stage("fisher")
