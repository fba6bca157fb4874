"""The Lightning task, its checkpoints, and resuming."""
