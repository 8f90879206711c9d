"""Dynamic STRFs: the gradmap at every frame of a sound, in one pass along it."""
