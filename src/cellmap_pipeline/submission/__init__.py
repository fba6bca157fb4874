"""Packaging and checking of `submission.zip`."""
