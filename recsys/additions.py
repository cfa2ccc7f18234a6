"""New products in a bundle without training: each gets a vector from its content and is found from then on.

A bundle is never changed: this writes another, which `watch` swaps in. Products of the old one keep their
indices, so that histories, rooms and lists stay as they are; new ones come behind them.

| section | a new product's part |
|---|---|
| core | its id, category, brand, price, stock and title; its vector by the content tower |
| vectors_NAME | the same; zero, which is never found, where the model reads no content |
| neighbours_NAME | no neighbours |
| returns | a lift of 1: it is come back to as all are |
| fusion | least popularity, never seen, its price and category |
| rooms | its category |
| popular, hot, others | none |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc

from recsys.bundle import CORE, Bundle, Section, open_bundle, write_bundle
from recsys.data.ids import IdMap, id_keys
from recsys.data.schema import TABLES, Kind
from recsys.data.tombstones import forgotten, put_on_list
from recsys.errors import BundleError, DataError
from recsys.index import BuiltIndex, with_more
from recsys.models.tower_features import TableEncoder
from recsys.product_sections import Catalogue, ContentTower, read_catalogue, read_vectors
from recsys.room_sections import ROOMS
from recsys.tables import read_table
from recsys.types import FloatArray

_ID = "item_id"


@dataclass(frozen=True)
class Added:
    """What was done.

    Attributes:
        path: the new bundle.
        added: products that are new in it.
        known: rows of products that the old bundle had already; they stay as they are.
        placed: new products with a vector; the others are found by filters and reports alone.
    """

    path: Path
    added: int
    known: int
    placed: int


def add_items(bundle: Path, items: Path, out: Path) -> Added:
    """Write a bundle with more products; who was forgotten beside the old one is so beside the new one too.

    Args:
        bundle: the one to begin with.
        items: Parquet or CSV of the contract's `items` table: item_id, and what else is known of each.
        out: the bundle to write; there is none yet.

    Raises:
        DataError: the file of products cannot be used: names file, column and value.
        BundleRefused: the bundle cannot be used, or `out` is there already.
        BundleError: the bundle cannot place new products.
    """
    old = open_bundle(bundle)
    catalogue = read_catalogue(old)
    table = _read_items(items, catalogue.items)
    if not len(table):
        raise DataError(f"{items}: there is no product in it")
    new = table.filter(pc.equal(pa.array(catalogue.items.index(table[_ID].combine_chunks())), -1))
    if not len(new):
        raise DataError(f"{items}: nothing to add: the bundle has all {len(table)} products already")
    added = _Addition(old, catalogue, new)
    sections = {name: added.extended(name, section) for name, section in old.sections.items()}
    if added.vectors is None:
        raise BundleError(
            f"{bundle}: no model in it reads what is known of a product: train one with item features"
            " (a category, a price or a title)"
        )
    # The new bundle holds what the old one did of people forgotten since: the list must lie beside it first.
    out.parent.mkdir(parents=True, exist_ok=True)
    for mark in forgotten(old.path.parent) - forgotten(out.parent):
        put_on_list(out.parent, mark)
    ids = hashlib.sha256("\0".join(new[_ID].to_pylist()).encode()).hexdigest()[:8]
    path = write_bundle(
        out,
        sections=sections,
        config=old.config,
        metrics=old.metrics,
        model_version=f"{old.model_version}+{len(new)}-{ids}",
        mlflow_run_id=old.mlflow_run_id,
        extra={name: bytes(content) for name, content in old.extra.items()},
    )
    placed = int(added.vectors.any(axis=1).sum())
    return Added(path, len(new), len(table) - len(new), placed)


class _Addition:
    """New products on their way into every section.

    Attributes:
        vectors: (m, d) of the new products, once a section had a content tower.
    """

    def __init__(self, old: Bundle, catalogue: Catalogue, new: pa.Table) -> None:
        self.old, self.new = old, new
        self.n_items, self.n_users = len(catalogue.items), len(catalogue.users)
        self.vectors: FloatArray | None = None

    def extended(self, name: str, section: Section) -> Section:
        """The section with the new products in it."""
        kind = section.meta.get("kind")
        if kind == "catalogue":
            tables = {**section.tables, "items": self._items(section.tables["items"])}
            section = replace(section, tables=tables)
            return self._with_vectors(name, section) if section.meta.get("vectors") is not None else section
        if kind == "vectors":
            return self._with_vectors(name, section)
        if kind == "neighbours":
            last = section.arrays["indptr"][-1:]
            return self._with(section, indptr=np.repeat(last, len(self.new)))
        if kind == "returns":
            return self._with(section, lift=np.ones(len(self.new), dtype=np.float32))
        if kind == "fusion":
            return self._fusion(section)
        if kind == ROOMS:
            return self._rooms(section)
        return section

    def _with(self, section: Section, **more: np.ndarray[Any, Any]) -> Section:
        arrays: dict[str, np.ndarray[Any, Any]] = dict(section.arrays)
        for name, values in more.items():
            arrays[name] = np.concatenate([arrays[name], values.astype(arrays[name].dtype)])
        return replace(section, arrays=arrays)

    def _items(self, known: pa.Table) -> pa.Table:
        columns = {}
        for name in known.column_names:
            kind = known[name].type
            given = self.new[name] if name in self.new.column_names else pa.nulls(len(self.new))
            columns[name] = pa.chunked_array([*known[name].chunks, *_as(given, kind).chunks], kind)
        return pa.table(columns)

    def _with_vectors(self, name: str, section: Section) -> Section:
        read = read_vectors(name, section, n_items=self.n_items, n_users=self.n_users)
        vectors = np.zeros((len(self.new), read.item_vectors.shape[1]), dtype=np.float32)
        if read.content is not None:
            vectors = self.vectors = _placed(read.content, self.new)
        more = with_more(BuiltIndex(read.index.data, read.index.nprobe), vectors)
        section = self._with(section, item_vectors=vectors)
        return replace(section, blobs={**section.blobs, "items.faiss": more.data})

    def _fusion(self, section: Section) -> Section:
        m, arrays = len(self.new), section.arrays
        price = _numbers(self.new, "price")
        return self._with(
            section,
            popularity=np.repeat(arrays["popularity"].min(axis=0, keepdims=True), m, axis=0),
            attention=np.full(m, arrays["attention"].min(initial=0.0)),
            first_seen_us=np.full(m, np.iinfo(np.int64).max),
            log_price=np.log(np.where(price > 0, price, np.nan)),
            category=self._codes(self.old.section(CORE).tables["items"]),
        )

    def _codes(self, known: pa.Table) -> np.ndarray[Any, Any]:
        """The category's code of each new product; the names are coded in the order of the catalogue."""
        if "category" not in known.column_names or "category" not in self.new.column_names:
            return np.full(len(self.new), -1)
        names = pc.unique(pc.drop_null(known["category"].cast(pa.string())))
        return np.asarray(pc.fill_null(pc.index_in(self.new["category"], value_set=names), -1))

    def _rooms(self, section: Section) -> Section:
        names: Mapping[str | None, int] = {name: code for code, name in enumerate(section.meta["categories"])}
        given = [None] * len(self.new)
        if "category" in self.new.column_names:
            given = self.new["category"].to_pylist()
        return self._with(
            section,
            item_category=np.array([names.get(name, -1) for name in given], dtype=np.int32),
            item_price=np.full(len(self.new), np.nan),
        )


def _placed(tower: ContentTower, items: pa.Table) -> FloatArray:
    """(m, d) float32 vectors by content; zero where nothing is known of a product."""
    encoder = TableEncoder.from_json(tower.encoder)
    encoded = encoder.encode(items, len(items))
    session: Any = onnxruntime.InferenceSession(bytes(tower.onnx), providers=["CPUExecutionProvider"])
    widened = {
        name: np.pad(values, ((0, 0), (0, max(least - values.shape[1], 0))))
        for name, values, least in (
            ("codes", encoded.codes, 1),
            ("numbers", encoded.numbers, 1),
            ("words", encoded.words, 2),
        )
    }
    wanted = {entry.name for entry in session.get_inputs()}
    (vectors,) = session.run(None, {name: values for name, values in widened.items() if name in wanted})
    return np.where(encoded.known[:, None], vectors, 0.0).astype(np.float32)


def _read_items(path: Path, known: IdMap) -> pa.Table:
    """The file's rows: item_id as the text that ids are compared by, columns of the contract in its types."""
    table = read_table(path, (_ID,))
    keys = id_keys(table[_ID])
    try:
        spelt = keys.cast(known.id_type).cast(keys.type)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {_ID} is {known.id_type} in the bundle: {error}") from None
    other = keys.filter(pc.not_equal(keys, spelt))
    if len(other):
        odd = other[0].as_py()
        raise DataError(
            f"{path}: {_ID} is {known.id_type} in the bundle, and {odd!r} is not how one is spelt"
        )
    counts = pc.value_counts(keys)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(f"{path}: {_ID} {twice[0]['values']} occurs {twice[0]['counts']} times")
    columns: dict[str, Any] = {_ID: keys}
    for name in table.column_names:
        if name == _ID:
            continue
        column = table[name]
        if pa.types.is_string(column.type):  # an empty cell of a CSV says nothing
            column = pc.if_else(pc.equal(column, ""), None, column)
        contract = TABLES["items"].column(name)
        if contract is not None and contract.kind is Kind.NUMBER:
            column = _as_number(path, name, column)
        elif contract is not None and contract.kind is Kind.TEXT:
            if pa.types.is_nested(column.type):
                raise DataError(f"{path}: {name} holds {column.type}; give one value a row")
            column = column.cast(pa.string())
        columns[name] = column
    return pa.table(columns)


def _as_number(path: Path, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: {name}: {error}") from None
    infinite = pc.fill_null(pc.is_inf(numbers), False)
    if pc.any(infinite).as_py():
        raise DataError(f"{path}: {name}: row {pc.index(infinite, True).as_py() + 1} is infinite")
    return numbers


def _numbers(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(m,) float64, NaN where unknown."""
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return np.asarray(pc.fill_null(table[name], np.nan), dtype=np.float64)


def _as(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    whole = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if pa.types.is_dictionary(kind):
        return whole.cast(kind.value_type).dictionary_encode().cast(kind)
    return whole.cast(kind)
