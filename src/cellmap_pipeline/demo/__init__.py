"""Synthetic FIB-SEM data."""
