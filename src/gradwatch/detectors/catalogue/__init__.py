"""Every health rule: code, meaning, thresholds with their sources, causes and advice. No numbers are computed here.

``RULES`` joins the families. ``gradwatch rules`` and the pages of the documentation are made from it, so nothing here
imports torch or numpy.
"""
