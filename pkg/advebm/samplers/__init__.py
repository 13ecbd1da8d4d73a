"""Samplers and attacks. Each takes an energy and images, and knows nothing of what the energy is made of."""
