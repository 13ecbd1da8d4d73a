"""The training images nearest to a method's samples: `advebm neighbours`."""

from wiring import stage

if __name__ == "__main__":
    stage("neighbours")
