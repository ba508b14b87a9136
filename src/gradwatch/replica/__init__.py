"""A side copy of module, batch and random states on which replays and gradient checks run, unnoticed by training."""
