"""The ways to the Jacobian of a model's responses with respect to its stimulus."""
