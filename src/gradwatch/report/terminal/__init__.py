"""A run on a terminal: ``gradwatch show``."""
