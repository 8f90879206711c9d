"""Models that hear sound: what their front-end makes of it, and the way back from there to the samples."""
