"""The configuration of a run and of its trainings, and the stages that each key affects."""
