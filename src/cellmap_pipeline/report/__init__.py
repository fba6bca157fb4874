"""Figures, the status of a run, and the viewer."""
