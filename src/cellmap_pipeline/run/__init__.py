"""How work is run: jobs, locks, process pools, scratch space, restarts."""
