"""Pages of one self-contained file each: no network, no framework, no markup from a run's own words.

``gradwatch compare`` builds its page from the same parts: ``markup`` (escaping is the default), ``page`` (sections to
a page), ``curves`` (charts with bands and marks), ``colours`` and ``formats``.
"""
