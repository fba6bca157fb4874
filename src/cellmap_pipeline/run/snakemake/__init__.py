"""Calls of Snakemake, and what its log tells of a run."""
