"""What costs little to measure of a method: `advebm look`."""

from wiring import stage

if __name__ == "__main__":
    stage("look")
