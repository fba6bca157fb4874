"""Which training predicts which label of which crop, and where results lie."""
