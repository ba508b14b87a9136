"""Adapters that translate a framework's hooks into calls of the engine, and nothing else."""
