"""Figures of the report, drawn by matplotlib in one style."""
