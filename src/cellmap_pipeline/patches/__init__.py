"""Training patches: targets, sampling, augmentation and loading."""
