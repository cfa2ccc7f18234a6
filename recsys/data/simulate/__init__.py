"""Seeded simulated platforms with known truth: live commerce, and a second world of another shape."""

from recsys.data.simulate.params import SimulationParams
from recsys.data.simulate.platform import simulate
from recsys.data.simulate.summary import HotCeiling, Rate, RoomHeadroom, SimulationSummary

__all__ = ["HotCeiling", "Rate", "RoomHeadroom", "SimulationParams", "SimulationSummary", "simulate"]
