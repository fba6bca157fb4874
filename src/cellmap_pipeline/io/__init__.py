"""Volumes on disk and in buckets, label volumes, tables, YAML files, and atomic writes."""
