"""The CellMap challenge's official metrics."""
