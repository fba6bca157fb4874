"""Random augmentation of patches."""
