"""The commands of `cellmap-pipeline`, a module each: its arguments, and the call that it makes."""
