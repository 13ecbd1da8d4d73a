"""Data sets: reading them, preparing them, drawing batches, and the class Gaussians."""
