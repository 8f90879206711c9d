"""What comes in: checkpoints, stimuli, tables."""
