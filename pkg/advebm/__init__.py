"""Energy-based models trained with adversarial training."""
