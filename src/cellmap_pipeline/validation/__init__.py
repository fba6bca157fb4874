"""Tuning of the post-processing, and the selection of trainings."""
