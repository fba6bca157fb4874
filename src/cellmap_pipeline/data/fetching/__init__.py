"""Fetching of the data that a run needs: from a bucket or a folder into `data_root`."""
