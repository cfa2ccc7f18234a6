"""A user's true utility for every live room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.simulate.memory import FOLLOWS, HIDDEN
from recsys.data.simulate.params import HOUR_MS, SimulationParams
from recsys.data.simulate.world import World
from recsys.types import FloatArray, IntArray, LongArray


@dataclass(frozen=True)
class Tastes:
    """The parts of the world that true utility reads; everything else about it is in the memory.

    Attributes:
        streamer_vector: (S, D).
        charm: (S,).
        item_vector: (I, D).
        price_level: (I,).
    """

    streamer_vector: FloatArray
    charm: FloatArray
    item_vector: FloatArray
    price_level: FloatArray


def tastes_of(world: World) -> Tastes:
    """The parts of `world` that true utility reads."""
    return Tastes(world.streamers.vector, world.streamers.charm, world.items.vector, world.items.price_level)


def room_utilities(
    params: SimulationParams,
    tastes: Tastes,
    *,
    taste: FloatArray,
    wallet: FloatArray,
    streamer: IntArray,
    air: IntArray,
    demand: FloatArray,
    memory: tuple[FloatArray, FloatArray, np.ndarray],
) -> FloatArray:
    """True utilities (B, R), by the formula of `ChoiceParams`.

    Args:
        taste: (B, D) tastes at the moment.
        wallet: (B,) price level that suits each user.
        streamer: (R,) streamer_idx of the rooms.
        air: (B, R) item_idx on air at the moment.
        demand: (B, R) true demand multiple of those products.
        memory: what `VisitMemory.recall` returns.
    """
    weight = params.choice
    visits, since_h, relation = memory
    liking = np.take_along_axis(taste @ tastes.item_vector.T, air, axis=1)
    misfit = (tastes.price_level[air] - wallet[:, None]) ** 2
    daily = np.exp(-(((since_h - 24) / 3) ** 2))
    weekly = np.exp(-(((since_h - 168) / 8) ** 2))
    utilities: FloatArray = (
        weight.streamer * (taste @ tastes.streamer_vector[streamer].T)
        + weight.charm * tastes.charm[streamer]
        + weight.on_air * liking
        - weight.price * misfit
        + weight.heat * np.log(demand)
        + weight.known * np.log1p(visits)
        + weight.daily * daily
        + weight.weekly * weekly
        - weight.just_left * np.exp(-since_h / 2)
        + weight.follow * (relation == FOLLOWS)
        - weight.hide * (relation == HIDDEN)
    ).astype(np.float32)
    return utilities


def progress(params: SimulationParams, at_ms: LongArray) -> FloatArray:
    """How far through the log each moment (B,) is, 0 to 1: the clock of drifting tastes."""
    return (at_ms / (params.days * 24 * HOUR_MS)).astype(np.float32)
