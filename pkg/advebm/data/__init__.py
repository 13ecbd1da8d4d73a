"""Data sets: readers, batches and class Gaussians."""
