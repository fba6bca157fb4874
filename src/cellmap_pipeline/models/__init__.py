"""Networks and losses by name."""
