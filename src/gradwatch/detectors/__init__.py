"""Rules that read the numbers of a run and return findings."""
