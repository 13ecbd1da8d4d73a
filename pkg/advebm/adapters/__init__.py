"""Trained models in the protocols of other libraries, which their users have installed: docs/compare.md."""
