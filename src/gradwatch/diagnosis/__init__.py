"""From a non-finite value to its cause: evidence, blame, incident."""
