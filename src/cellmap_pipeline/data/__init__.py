"""The challenge's tables, crops on disk, data splits and fetching."""
