"""Several runs side by side: what differs in their settings, and where their curves part.

``docs/compare.md`` has the statistics; ``parting`` is where they are.
"""
