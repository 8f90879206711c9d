"""From a checked config to a written cube: prepare the run, compute its shards, keep the record."""
