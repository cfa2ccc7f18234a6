"""Recommendation and product selection for live commerce."""
