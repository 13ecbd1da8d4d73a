"""Measurements, one a file: each takes a network and images and returns plain numbers, with what they were made from."""
