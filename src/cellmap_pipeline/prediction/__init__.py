"""Sliding windows over whole crops."""
