"""Samplers and attacks. They take an energy and images, and do not depend on how the energy is computed."""
