"""`python -m advebm`."""

from advebm.cli import main

main()
