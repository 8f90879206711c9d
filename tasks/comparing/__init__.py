"""What `gradmap reliability` and `gradmap compare` share."""
