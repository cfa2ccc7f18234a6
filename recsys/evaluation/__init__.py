"""Metrics by hand-checkable formulas, protocols, bootstrap intervals."""
