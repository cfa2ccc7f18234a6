"""Fitted product models -> the sections of a bundle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.bundle import CORE, Section
from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.index import build_index
from recsys.models.base import Model, VectorModel
from recsys.models.collaborative import ALS
from recsys.models.fold_in import FoldIn
from recsys.models.fusion import Combiner
from recsys.models.fusion_training import consumption, item_table
from recsys.models.history_models import HistoryModel, Repeat
from recsys.models.neighbours import Neighbours
from recsys.models.popular import Popular
from recsys.models.repeat import ReturnRates
from recsys.models.two_tower import TwoTower
from recsys.product_sections import (
    Catalogue,
    ContentTower,
    FoldInQuery,
    PopularLists,
    TowerQuery,
    Vectors,
    core_section,
    fusion_section,
    latest,
    neighbours_section,
    popular_section,
    returns_section,
    vectors_section,
)
from recsys.types import Target

#: How many popular products of each segment the bundle keeps.
POPULAR_DEPTH = 2_000


def product_sections(
    dataset: Dataset, sources: Sequence[Model], combiner: Combiner | None
) -> dict[str, Section]:
    """Everything that answers for products, as of the Dataset's moment.

    Args:
        dataset: what the sources were fitted on.
        sources: fitted, popularity among them. Without a combiner only popularity is exported.
        combiner: learned on validation; its item table is renewed here.

    Raises:
        ModelError: a source that the request path has no way to run.
    """
    sections: dict[str, Section] = {}
    main: Vectors | None = None
    for source in sources:
        if isinstance(source, Popular):
            lists = source.segment_lists(k=POPULAR_DEPTH)
            exported = PopularLists.of(lists, source.segments.of_user)
            sections["popular"] = popular_section(source.name, exported)
        elif combiner is None:
            continue
        elif isinstance(source, VectorModel):
            vectors = _vectors(source)
            if main is None:
                main = vectors
            else:
                sections[f"vectors_{source.name}"] = vectors_section(vectors)
        elif isinstance(source, HistoryModel) and isinstance(source.scorer, Neighbours):
            sections[f"neighbours_{source.name}"] = neighbours_section(source.name, source.scorer)
        elif isinstance(source, Repeat) and isinstance(source.scorer, ReturnRates):
            sections["returns"] = returns_section(source.name, source.scorer, length=source.length)
        else:
            raise ModelError(f"{source.name}: the request path cannot run this model; leave it out of fusion")
    if combiner is not None:
        sections["fusion"] = fusion_section(combiner.with_table(item_table(dataset, Target.ITEM)))
    return {CORE: core_section(_catalogue(dataset), main), **sections}


def _catalogue(dataset: Dataset) -> Catalogue:
    consumed_by = consumption(dataset)
    seen = dataset.done(Target.ITEM, consumed_by)
    return Catalogue(
        items=dataset.items.ids,
        item_table=dataset.items.table,
        users=dataset.users.ids,
        personalised=dataset.personalised(),
        histories=latest(dataset.histories(Target.ITEM)),
        seen_indptr=seen.indptr.astype(np.int64),
        seen_ids=seen.indices.astype(np.int32),
        consumption=consumed_by,
        as_of_us=dataset.as_of_us,
    )


def _vectors(source: VectorModel) -> Vectors:
    query: TowerQuery | FoldInQuery | None = None
    content: ContentTower | None = None
    if isinstance(source, TwoTower):
        if (tower := source.content_tower()) is not None:
            content = ContentTower(*tower)
        query = TowerQuery(source.query_tower_onnx(), source.params.history_length, source.user_profiles)
    elif isinstance(source, ALS):
        params = source.params
        fold_in = FoldIn.of(source.target_vectors, alpha=params.alpha, regularization=params.regularization)
        query = FoldInQuery(fold_in.gram, params.alpha, source.weights)
    index = build_index(source.target_vectors, queries=source.user_vectors)
    return Vectors(source.name, source.target_vectors, source.user_vectors, index, query, content)
