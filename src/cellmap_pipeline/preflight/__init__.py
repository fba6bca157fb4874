"""Checks of the inputs, and estimates of cost, before a run."""
