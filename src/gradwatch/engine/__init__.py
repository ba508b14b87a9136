"""The engine: what happens at each step, framework-free. ``monitor.py`` is the place to start reading."""
