"""The sections of a bundle that answer for products: written by training, read by serving, laid out here.

| section | kind | arrays and tables |
|---|---|---|
| core | catalogue | items, users (tables); history_*, seen_* (ragged); the main vector model's |
| vectors_NAME | vectors | those of any further vector model |
| neighbours_NAME | neighbours | indptr, ids, scores |
| returns | returns | hazard, lift |
| popular | popular | indptr, ids, scores by segment; user_segment |
| fusion | fusion | what `Combiner.to_parts` gives |
| hot | hot | hot (table) |

Item and user rows are in index order; ragged arrays are an `indptr` (n + 1,) int64 and flat values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.bundle import Bundle, BundleRefused, Reason, Section
from recsys.data.behaviours import BehaviourWeights
from recsys.data.histories import Histories
from recsys.data.ids import IdMap
from recsys.index import BuiltIndex
from recsys.models.fusion import Combiner
from recsys.models.neighbours import Neighbours, RecencyParams
from recsys.models.repeat import ReturnRates
from recsys.slices import expand
from recsys.types import Behaviour, BoolArray, FloatArray, IntArray, LongArray

#: How many of a user's latest actions the bundle keeps.
STORED_ACTIONS = 200


@dataclass(frozen=True)
class Catalogue:
    """What is recommended, to whom, and what they did.

    Attributes:
        items: ids of n items.
        item_table: n rows; of its columns, category, brand, price, stock (numbers) and title are used.
        users: ids of U users.
        personalised: (U,) bool; False for one who has opted out.
        histories: the latest actions of each user on items; impressions are none.
        seen_indptr, seen_ids: the items that each user has consumed, (U + 1,) int64 and (N,) int32.
        consumption: the behaviours that count as consuming.
        as_of_us: the moment that the bundle knows everything before; microseconds since the epoch.
    """

    items: IdMap
    item_table: pa.Table
    users: IdMap
    personalised: BoolArray
    histories: Histories
    seen_indptr: LongArray
    seen_ids: IntArray
    consumption: tuple[Behaviour, ...]
    as_of_us: int


@dataclass(frozen=True)
class TowerQuery:
    """The query tower of a two-tower model.

    Attributes:
        onnx: the graph; see `recsys.models.onnx_export` for its inputs.
        length: how many of the latest actions it reads.
        profiles: (U, d) float32 of users by id and features.
    """

    onnx: bytes | memoryview
    length: int
    profiles: FloatArray


@dataclass(frozen=True)
class FoldInQuery:
    """The closed form of ALS.

    Attributes:
        gram: Y'Y + lambda I, (d, d) float32.
        alpha: what a confidence is multiplied by.
        weights: the confidences.
    """

    gram: FloatArray
    alpha: float
    weights: BehaviourWeights


@dataclass(frozen=True)
class ContentTower:
    """What gives a product that came after the fit its vector.

    Attributes:
        onnx: the graph; see `recsys.models.onnx_export` for its inputs.
        encoder: what `recsys.models.tower_features.TableEncoder.from_json` reads.
    """

    onnx: bytes | memoryview
    encoder: bytes | memoryview


@dataclass(frozen=True)
class Vectors:
    """A model whose score is an inner product.

    Attributes:
        source: its name, as the combiner knows it.
        item_vectors: (n, d) float32; zero for an item that the model knows nothing of.
        user_vectors: (U, d) float32 as of the bundle's moment; zero likewise.
        index: of the item vectors.
        query: how a fresh history becomes a vector; None where the model cannot.
        content: how a new product becomes one; None likewise.
    """

    source: str
    item_vectors: FloatArray
    user_vectors: FloatArray
    index: BuiltIndex
    query: TowerQuery | FoldInQuery | None
    content: ContentTower | None = None


@dataclass(frozen=True)
class PopularLists:
    """What is popular in each segment, best first. Segment 0 is everybody.

    Attributes:
        names: of S segments; "" for everybody.
        indptr: (S + 1,) int64.
        ids: (N,) int32 items.
        scores: (N,) float32, descending within a segment.
        user_segment: (U,) int32.
    """

    names: tuple[str, ...]
    indptr: LongArray
    ids: IntArray
    scores: FloatArray
    user_segment: IntArray

    @classmethod
    def of(cls, lists: Mapping[str, tuple[IntArray, FloatArray]], user_segment: IntArray) -> PopularLists:
        """From name -> ids and scores, best first, as `Popular.segment_lists` gives them; "" first."""
        names = tuple(lists)
        if not names or names[0] != "":
            raise ValueError(f"segments {names[:3]}: the first must be '', which is everybody")
        lengths = [len(ids) for ids, _ in lists.values()]
        return cls(
            names=names,
            indptr=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            ids=np.concatenate([ids for ids, _ in lists.values()]).astype(np.int32),
            scores=np.concatenate([scores for _, scores in lists.values()]).astype(np.float32),
            user_segment=user_segment.astype(np.int32),
        )


def latest(histories: Histories, length: int = STORED_ACTIONS) -> Histories:
    """The last `length` actions of each user."""
    kept = np.minimum(np.diff(histories.indptr), length)
    position, _ = expand(histories.indptr[1:] - kept, kept)
    return Histories(
        indptr=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64),
        target_idx=histories.target_idx[position],
        behaviour=histories.behaviour[position],
        timestamp_us=histories.timestamp_us[position],
        duration_s=histories.duration_s[position],
    )


_CONTENT_GRAPH, _CONTENT_ENCODER = "item_tower.onnx", "item_encoder.json"
#: Of a product, what a request may ask for or be shown.
_ITEM_COLUMNS = ("category", "brand", "price", "stock", "title")

# -- writing ------------------------------------------------------------------------------------------------


def core_section(catalogue: Catalogue, vectors: Vectors | None) -> Section:
    """The catalogue, with the main vector model where there is one."""
    histories = catalogue.histories
    arrays: dict[str, Any] = {
        "history_indptr": histories.indptr.astype(np.int64),
        "history_ids": histories.target_idx.astype(np.int32),
        "history_behaviour": histories.behaviour.astype(np.int8),
        "history_timestamp_us": histories.timestamp_us.astype(np.int64),
        "history_duration_s": histories.duration_s.astype(np.float32),
        "seen_indptr": catalogue.seen_indptr.astype(np.int64),
        "seen_ids": catalogue.seen_ids.astype(np.int32),
        "user_personalised": catalogue.personalised.astype(bool),
    }
    used = [name for name in _ITEM_COLUMNS if name in catalogue.item_table.column_names]
    items = pa.table({"item_id": catalogue.items.keys, **{name: catalogue.item_table[name] for name in used}})
    meta: dict[str, Any] = {
        "kind": "catalogue",
        "as_of_us": int(catalogue.as_of_us),
        "item_id_type": str(catalogue.items.id_type),
        "user_id_type": str(catalogue.users.id_type),
        "consumption": [behaviour.value for behaviour in catalogue.consumption],
        "vectors": None,
    }
    blobs: Mapping[str, bytes | memoryview] = {}
    if vectors is not None:
        section = vectors_section(vectors)
        arrays |= section.arrays
        blobs = section.blobs
        meta["vectors"] = section.meta
    return Section(
        arrays=arrays,
        tables={"items": items, "users": pa.table({"user_id": catalogue.users.keys})},
        blobs=blobs,
        meta=meta,
        may_be_nan=frozenset({"history_duration_s"}),
    )


def vectors_section(vectors: Vectors) -> Section:
    """A vector model; as part of the core, or as a section of its own."""
    arrays = {
        "item_vectors": vectors.item_vectors.astype(np.float32),
        "user_vectors": vectors.user_vectors.astype(np.float32),
    }
    blobs: dict[str, bytes | memoryview] = {"items.faiss": vectors.index.data}
    meta: dict[str, Any] = {"kind": "vectors", "source": vectors.source, "nprobe": vectors.index.nprobe}
    if isinstance(vectors.query, TowerQuery):
        blobs["user_tower.onnx"] = vectors.query.onnx
        arrays["user_profiles"] = vectors.query.profiles.astype(np.float32)
        meta["query"] = {"kind": "tower", "length": vectors.query.length}
    elif isinstance(vectors.query, FoldInQuery):
        arrays["gram"] = vectors.query.gram.astype(np.float32)
        weights = vectors.query.weights.model_dump(mode="json")
        meta["query"] = {"kind": "fold_in", "alpha": vectors.query.alpha, "weights": weights}
    if vectors.content is not None:
        blobs[_CONTENT_GRAPH] = vectors.content.onnx
        blobs[_CONTENT_ENCODER] = vectors.content.encoder
    return Section(arrays=arrays, blobs=blobs, meta=meta)


def neighbours_section(source: str, neighbours: Neighbours) -> Section:
    """An item-to-item model: co-visitation or any similarity cut to its best neighbours."""
    return Section(
        arrays=neighbours.to_parts(),
        meta={"kind": "neighbours", "source": source, "recency": neighbours.recency.model_dump(mode="json")},
    )


def returns_section(source: str, returns: ReturnRates, *, length: int) -> Section:
    """What a user comes back to; `length` is how many of the latest actions the model reads."""
    return Section(
        arrays={"hazard": returns.hazard, "lift": returns.lift},
        meta={"kind": "returns", "source": source, "length": length},
    )


def popular_section(source: str, popular: PopularLists) -> Section:
    """What is popular by segment."""
    return Section(
        arrays={
            "indptr": popular.indptr,
            "ids": popular.ids,
            "scores": popular.scores,
            "user_segment": popular.user_segment,
        },
        meta={"kind": "popular", "source": source, "names": list(popular.names)},
    )


def fusion_section(combiner: Combiner) -> Section:
    """The combiner of the sources."""
    arrays, blobs, meta = combiner.to_parts()
    return Section(
        arrays=arrays, blobs=blobs, meta={"kind": "fusion", **meta}, may_be_nan=frozenset({"log_price"})
    )


def hot_section(table: pa.Table) -> Section:
    """The hot list, best first.

    Args:
        table: item_idx (int32), potential, lower, upper (double in [0, 1]), grade (string); optional
            expected_units (double) and reasons (string).
    """
    return Section(tables={"hot": table}, meta={"kind": "hot"})


# -- reading ------------------------------------------------------------------------------------------------


def read_catalogue(bundle: Bundle) -> Catalogue:
    """The catalogue of the core section.

    Raises:
        BundleRefused: a part is missing, or the parts do not fit each other.
    """
    section = bundle.section("core")
    arrays, meta = _parts("core", section)
    items, users = section.tables["items"], section.tables["users"]
    n_users = len(users)
    histories = Histories(
        indptr=arrays["history_indptr"],
        target_idx=arrays["history_ids"],
        behaviour=arrays["history_behaviour"],
        timestamp_us=arrays["history_timestamp_us"],
        duration_s=arrays["history_duration_s"],
    )
    _check_ragged("core: history", arrays["history_indptr"], n_users, histories.target_idx, len(items))
    _check_ragged("core: seen", arrays["seen_indptr"], n_users, arrays["seen_ids"], len(items))
    columns = (histories.target_idx, histories.behaviour, histories.timestamp_us, histories.duration_s)
    same = {len(values) for values in columns}
    _check(len(same) == 1, f"core: history columns have {sorted(same)} rows")
    _check(
        len(arrays["user_personalised"]) == n_users, "core: user_personalised has another length than users"
    )
    return Catalogue(
        items=IdMap(items["item_id"].combine_chunks(), pa.type_for_alias(meta["item_id_type"])),
        item_table=items,
        users=IdMap(users["user_id"].combine_chunks(), pa.type_for_alias(meta["user_id_type"])),
        personalised=arrays["user_personalised"],
        histories=histories,
        seen_indptr=arrays["seen_indptr"],
        seen_ids=arrays["seen_ids"],
        consumption=tuple(Behaviour(name) for name in meta["consumption"]),
        as_of_us=int(meta["as_of_us"]),
    )


def read_vectors(name: str, section: Section, *, n_items: int, n_users: int) -> Vectors:
    """A vector model from the section `name`, which may be the core."""
    arrays, meta = _parts(name, section)
    if meta["kind"] == "catalogue":
        meta = _Known(name, meta["vectors"])
    item_vectors, user_vectors = arrays["item_vectors"], arrays["user_vectors"]
    d = item_vectors.shape[-1]
    _check_shape(name, "item_vectors", item_vectors, (n_items, d))
    _check_shape(name, "user_vectors", user_vectors, (n_users, d))
    query: TowerQuery | FoldInQuery | None = None
    how = meta.get("query")
    if how is not None and how["kind"] == "tower":
        _check_shape(name, "user_profiles", arrays["user_profiles"], (n_users, d))
        query = TowerQuery(section.blobs["user_tower.onnx"], int(how["length"]), arrays["user_profiles"])
    elif how is not None:
        _check_shape(name, "gram", arrays["gram"], (d, d))
        weights = BehaviourWeights.model_validate(how["weights"])
        query = FoldInQuery(arrays["gram"], float(how["alpha"]), weights)
    index = BuiltIndex(section.blobs["items.faiss"], int(meta["nprobe"]))
    content = None
    if _CONTENT_GRAPH in section.blobs and _CONTENT_ENCODER in section.blobs:
        content = ContentTower(section.blobs[_CONTENT_GRAPH], section.blobs[_CONTENT_ENCODER])
    return Vectors(str(meta["source"]), item_vectors, user_vectors, index, query, content)


def read_neighbours(name: str, section: Section, *, n_items: int) -> Neighbours:
    """An item-to-item model."""
    arrays, meta = _parts(name, section)
    _check_ragged(name, arrays["indptr"], n_items, arrays["ids"], n_items)
    _check(len(arrays["scores"]) == len(arrays["ids"]), f"{name}: scores and ids differ in length")
    recency = RecencyParams.model_validate(meta["recency"])
    return Neighbours(arrays["indptr"], arrays["ids"], arrays["scores"], recency)


def read_returns(name: str, section: Section, *, n_items: int) -> ReturnRates:
    """What a user comes back to."""
    arrays, _ = _parts(name, section)
    _check_shape(name, "lift", arrays["lift"], (n_items,))
    return ReturnRates(arrays["hazard"], arrays["lift"])


def read_popular(name: str, section: Section, *, n_items: int, n_users: int) -> PopularLists:
    """What is popular by segment."""
    arrays, meta = _parts(name, section)
    names = tuple(meta["names"])
    _check_ragged(name, arrays["indptr"], len(names), arrays["ids"], n_items)
    _check(len(arrays["scores"]) == len(arrays["ids"]), f"{name}: scores and ids differ in length")
    segment = arrays["user_segment"]
    _check_shape(name, "user_segment", segment, (n_users,))
    _check_index(f"{name}: user_segment", segment, len(names))
    return PopularLists(names, arrays["indptr"], arrays["ids"], arrays["scores"], segment)


def read_fusion(name: str, section: Section, *, n_items: int) -> Combiner:
    """The combiner of the sources."""
    combiner = Combiner.from_parts(section.arrays, section.blobs, section.meta)
    _check(
        len(combiner.table) == n_items, f"{name}: {len(combiner.table)} items, the catalogue has {n_items}"
    )
    return combiner


def read_hot(name: str, section: Section, *, n_items: int) -> list[dict[str, Any]]:
    """The hot list, best first, one dictionary a product."""
    rows: list[dict[str, Any]] = section.tables["hot"].to_pylist()
    for row in rows:
        missing = {"item_idx", "potential", "lower", "upper", "grade"} - row.keys()
        _check(not missing, f"{name}: the table lacks {', '.join(sorted(missing))}")
        _check(
            0 <= row["item_idx"] < n_items, f"{name}: item_idx {row['item_idx']} is none of {n_items} items"
        )
    return rows


class _Known(Mapping[str, Any]):
    """A mapping whose missing keys are a refusal that names them."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self._name = name
        self._values = values

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            raise BundleRefused(Reason.CONTENT, f"section {self._name!r} lacks {key!r}; train again")
        return self._values[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._values.get(key, default)

    def __iter__(self) -> Any:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _parts(name: str, section: Section) -> tuple[_Known, _Known]:
    return _Known(name, section.arrays), _Known(name, section.meta)


def _check(fits: bool, message: str) -> None:
    if not fits:
        raise BundleRefused(Reason.CONTENT, f"{message}: the parts of this bundle do not fit; train again")


def _check_shape(name: str, array: str, values: np.ndarray[Any, Any], shape: tuple[int, ...]) -> None:
    _check(values.shape == shape, f"section {name!r}: {array} has shape {values.shape}, expected {shape}")


def _check_index(what: str, values: np.ndarray[Any, Any], n: int) -> None:
    _check(
        values.dtype.kind == "i" and (not len(values) or (values.min() >= 0 and values.max() < n)),
        f"{what} has an index outside 0 .. {n - 1}",
    )


def _check_ragged(what: str, indptr: LongArray, n: int, ids: np.ndarray[Any, Any], n_targets: int) -> None:
    _check(
        indptr.shape == (n + 1,)
        and bool(indptr[0] == 0 and indptr[-1] == len(ids) and (np.diff(indptr) >= 0).all()),
        f"{what}: indptr does not cut {len(ids)} values into {n} parts",
    )
    _check_index(what, ids, n_targets)
