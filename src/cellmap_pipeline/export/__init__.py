"""Trained networks as files that other programs load, with a model card."""
