"""Measurements of the engine on a world made for the purpose; `recsys bench` runs them."""
