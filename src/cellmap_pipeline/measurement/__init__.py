"""Volume, surface and position of the objects of labels."""
