"""All features of a sample: what was known of an item before an origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys.hot import context_features as context
from recsys.hot import demand_features as demand
from recsys.hot.forerunners import at_the_same_age
from recsys.hot.hours import pulse
from recsys.hot.panel import Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import Samples
from recsys.types import FloatArray, Progress


@dataclass(frozen=True)
class FeatureTable:
    """F features of R samples.

    Attributes:
        names: F names, in a fixed order.
        values: (R, F) float32; NaN where unknown.
    """

    names: tuple[str, ...]
    values: FloatArray

    def column(self, name: str) -> FloatArray:
        """(R,) one feature."""
        return self.values[:, self.names.index(name)]

    def at(self, rows: npt.NDArray[np.intp]) -> FeatureTable:
        """Those of some samples."""
        return FeatureTable(self.names, self.values[rows])

    def named(self, names: tuple[str, ...]) -> FeatureTable:
        """Those of the names, in their order; unknown where they are not there."""
        if names == self.names:
            return self
        place = {name: column for column, name in enumerate(self.names)}
        values = np.full((len(self.values), len(names)), np.nan, dtype=np.float32)
        for column, name in enumerate(names):
            if name in place:
                values[:, column] = self.values[:, place[name]]
        return FeatureTable(names, values)


def build_features(
    panel: Panel,
    target: TargetParams,
    samples: Samples,
    memberships: Mapping[str, sparse.csr_matrix],
    *,
    threads: int = 1,
    progress: Progress | None = None,
) -> FeatureTable:
    """Features of each sample from the panel's days before its origin.

    Args:
        panel: the daily facts; its days at and after an origin are not read for that origin.
        target: gives the horizon that rates are brought to and promotions are looked up for.
        samples: R pairs of item and origin.
        memberships: groups of the items, from `recsys.hot.groups.memberships`.
        threads: how many families of features are built at once.
        progress: called as progress(done, total, text).
    """
    panel = panel.believed
    # What is read of an item alone is read of those that are asked for.
    items, place = np.unique(samples.item_idx, return_inverse=True)
    own, of_own = panel.of_items(items), Samples(place.astype(np.int32), samples.origin)
    families: list[tuple[str, Callable[[], demand.Features]]] = [
        ("demand", lambda: demand.level_and_momentum(own, target, of_own, "demand")),
        ("buyers", lambda: demand.level_and_momentum(own, target, of_own, "buyers")),
        ("peaks", lambda: demand.peaks(panel, target, samples)),
        ("rhythm", lambda: demand.rhythm(own, of_own)),
        ("breadth", lambda: demand.breadth(own, target, of_own)),
        ("price", lambda: demand.price(own, of_own)),
        ("funnel", lambda: demand.funnel(own, target, of_own)),
        ("last hours", lambda: pulse(own.hours, of_own)),
        ("calendar", lambda: context.calendar(panel, target, samples)),
        ("last year", lambda: context.last_year(panel, target, samples)),
        ("groups", lambda: context.groups(panel, target, samples, memberships)),
        ("forerunners", lambda: at_the_same_age(panel, target, samples, memberships)),
        ("promotions", lambda: context.promotions(panel, target, samples, memberships)),
    ]
    found: demand.Features = {}
    with ThreadPoolExecutor(threads) as pool:
        # The last take longest, and are begun first; the order of the features stays.
        jobs = {name: pool.submit(family) for name, family in reversed(families)}
        for step, (name, _) in enumerate(families):
            if progress is not None:
                progress(step, len(families), f"features: {name}")
            found |= jobs[name].result()
    values = np.empty((len(samples), len(found)), dtype=np.float32)
    for column, feature in enumerate(found.values()):
        values[:, column] = feature
    return FeatureTable(tuple(found), values)
