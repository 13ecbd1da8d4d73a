"""The package and the plain implementation, timed in one process."""
