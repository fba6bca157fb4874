"""Locks on results and runs, and whether their holders live."""
