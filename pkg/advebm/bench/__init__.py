"""The package beside the plain way, timed in one run."""
