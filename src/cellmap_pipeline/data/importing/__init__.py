"""Import of volumes in other formats into the layout of the data folder."""
