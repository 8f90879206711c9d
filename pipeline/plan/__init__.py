"""The run as plain data: what was asked for, on which axes, cut into which pieces of work."""
