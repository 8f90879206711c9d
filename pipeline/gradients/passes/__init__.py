"""One forward pass through a model, what was seen on the way, and the rows that are asked of it."""
