"""The challenge's metrics."""
