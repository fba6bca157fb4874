"""From FIB-SEM volumes and their ground-truth crops to a valid CellMap challenge submission."""

__version__ = "0.1.0"
