"""Sets of rules of the official evaluator, one per module."""
