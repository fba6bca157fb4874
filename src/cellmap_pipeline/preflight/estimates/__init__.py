"""Estimates of what a run will take: time, memory and disk."""
