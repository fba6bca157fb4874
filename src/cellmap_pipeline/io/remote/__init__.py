"""Files on servers, bounded in size and time while they are read."""
