"""How often the tests and thresholds of the commands say yes where there is nothing, and where there is something."""
