"""Seeded simulated platforms with known truth: live commerce, and a second world of another shape."""

from recsys.data.simulate.drift import DriftSummary, simulate_drift
from recsys.data.simulate.drift_world import DriftParams
from recsys.data.simulate.oracle import RoomOracle, TrueRanking
from recsys.data.simulate.params import SimulationParams
from recsys.data.simulate.platform import simulate
from recsys.data.simulate.requests import RoomHeadroom
from recsys.data.simulate.summary import HotCeiling, Rate, SimulationSummary

__all__ = [
    "DriftParams",
    "DriftSummary",
    "HotCeiling",
    "Rate",
    "RoomHeadroom",
    "RoomOracle",
    "SimulationParams",
    "SimulationSummary",
    "TrueRanking",
    "simulate",
    "simulate_drift",
]
