"""Out-distribution detection by a method's energy: `advebm ood`."""

from wiring import stage

if __name__ == "__main__":
    stage("ood")
