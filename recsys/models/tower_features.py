"""Columns of an entity table as the codes, numbers and words that a tower reads."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.schema import TABLES, Kind
from recsys.data.titles import says_something, title_words
from recsys.errors import ConfigError, DataError
from recsys.types import BoolArray, FloatArray, LongArray

#: Contract columns that are no taste, or change by the hour.
_NOT_FEATURES = frozenset({"stock", "cost", "listed_at", "personalised"})
#: The contract's free text: it is read word by word.
_TITLE = "title"
#: The most words of a title that are read, the rarest first.
_WORDS_A_TITLE = 24
#: Columns whose ratio matters, not their difference: their logarithm is taken.
_LOGARITHMIC = frozenset({"price", "cost", "amount"})
#: A deviation of less than this share of the mean is what rounding leaves of equal numbers.
_ROUNDING = 1e-9
#: Where a standardised value ends: what is farther off was not there to learn from.
_FARTHEST = 20.0


@dataclass(frozen=True)
class EncodedTable:
    """The features of n entities.

    Attributes:
        codes: (n, categorical columns) int64; 0 is unknown, unseen, rare or missing.
        numbers: (n, 2 x numeric columns) float32: standardised values, 0 where missing, then one
            indicator a column of what is missing.
        words: (n, w) int64 codes of the title's words, from 1; 0 behind the last.
    """

    codes: LongArray
    numbers: FloatArray
    words: LongArray

    @classmethod
    def nothing(cls, n: int) -> EncodedTable:
        """Of n entities of which nothing is known."""
        none = np.zeros((n, 0), np.int64)
        return cls(codes=none, numbers=np.zeros((n, 0), np.float32), words=none)

    @property
    def some(self) -> bool:
        """Whether there is any feature at all."""
        return any(part.shape[1] for part in (self.codes, self.numbers, self.words))

    @property
    def known(self) -> BoolArray:
        """(n,) of which entities anything is known."""
        told = self.numbers[:, self.numbers.shape[1] // 2 :] == 0
        return np.asarray(np.concatenate([self.codes > 0, told, self.words > 0], axis=1).any(axis=1))


@dataclass(frozen=True)
class Scale:
    """How a numeric column is standardised: (x - mean) / deviation, of log(1 + x) where `log`.

    No further than `_FARTHEST`, so that one odd number does not drown what else is known.
    """

    mean: float
    deviation: float
    log: bool


@dataclass(frozen=True)
class TableEncoder:
    """The fitted encoding: it gives a later table, with values never seen, the same columns.

    Attributes:
        vocabularies: values of each categorical column; the place in the tuple, from 1, is the code.
        scales: of each numeric column.
        words: those of titles, the rarest first; the place in the tuple, from 1, is the code.
    """

    vocabularies: dict[str, tuple[str, ...]]
    scales: dict[str, Scale]
    words: tuple[str, ...] = ()

    @classmethod
    def fit(
        cls, table: pa.Table, columns: tuple[str, ...] | Literal["auto"], *, kind: str, max_categories: int
    ) -> TableEncoder:
        """Learn values and scales of a table.

        Args:
            table: one row an entity.
            columns: which columns, or `auto`.
            kind: the table's name in the contract: users, items or streamers.
            max_categories: the most values that a categorical column keeps, the most frequent first; and the
                most words of titles.

        Raises:
            ConfigError: a named column is absent, or is neither text, flag nor number.
            DataError: a number is infinite.
        """
        names = _auto_columns(table, kind, max_categories) if columns == "auto" else columns
        vocabularies, scales = {}, {}
        words: tuple[str, ...] = ()
        for name in names:
            if name not in table.column_names:
                raise ConfigError(
                    f"{kind} has no column {name!r} to take as a feature; it has {table.column_names}"
                )
            column = table[name]
            if name == _TITLE:
                words = _common_words(column, max_categories)
            elif _is_categorical(column.type):
                vocabularies[name] = _vocabulary(column, max_categories)
            elif _is_number(column.type):
                scales[name] = _scale(column, name, kind)
            else:
                raise ConfigError(f"{kind}.{name} is {column.type}: a feature is text, a flag or a number")
        return cls(vocabularies, scales, words)

    def encode(self, table: pa.Table, n: int) -> EncodedTable:
        """Codes, numbers and words of every row; a column that is absent here is unknown in each.

        Args:
            table: one row an entity, or no column at all.
            n: how many entities: a table without columns has no length.

        Raises:
            DataError: a number is infinite, or is none.
        """
        codes = np.zeros((n, len(self.vocabularies)), dtype=np.int64)
        for place, (name, vocabulary) in enumerate(self.vocabularies.items()):
            if name in table.column_names:
                found = pc.index_in(_as_text(table[name]), value_set=pa.array(vocabulary, pa.string()))
                codes[:, place] = np.asarray(pc.fill_null(found, -1)) + 1
        numbers = np.zeros((n, 2 * len(self.scales)), dtype=np.float32)
        for place, (name, scale) in enumerate(self.scales.items()):
            values = np.full(n, np.nan) if name not in table.column_names else _numbers(table[name], name)
            values = np.log1p(np.maximum(values, 0)) if scale.log else values
            missing = np.isnan(values)
            standard = np.clip((values - scale.mean) / scale.deviation, -_FARTHEST, _FARTHEST)
            numbers[:, place] = np.where(missing, 0.0, standard)
            numbers[:, len(self.scales) + place] = missing
        return EncodedTable(codes, numbers, self._words(table, n))

    def _words(self, table: pa.Table, n: int) -> LongArray:
        """(n, w) int64; as wide as the title of most known words, and of no width where no word is known."""
        code = {word: place for place, word in enumerate(self.words, 1)}
        if not code:
            return np.zeros((n, 0), dtype=np.int64)
        titles = [None] * n if _TITLE not in table.column_names else _as_text(table[_TITLE]).to_pylist()
        found = [sorted(code[word] for word in title_words(title or "") if word in code) for title in titles]
        words = np.zeros((n, max(1, min(max(map(len, found), default=0), _WORDS_A_TITLE))), dtype=np.int64)
        for row, known in enumerate(found):
            words[row, : len(known)] = known[: words.shape[1]]
        return words

    def to_json(self) -> bytes:
        """Everything that `from_json` needs to encode as this does."""
        scales = {name: [scale.mean, scale.deviation, scale.log] for name, scale in self.scales.items()}
        parts = {"vocabularies": self.vocabularies, "scales": scales, "words": self.words}
        return json.dumps(parts, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes | memoryview) -> Self:
        """The encoder that `to_json` wrote."""
        parts = json.loads(bytes(text))
        return cls(
            {name: tuple(values) for name, values in parts["vocabularies"].items()},
            {name: Scale(*scale) for name, scale in parts["scales"].items()},
            tuple(parts["words"]),
        )

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """How many codes each categorical column has, the unknown one included."""
        return tuple(len(values) + 1 for values in self.vocabularies.values())


def _auto_columns(table: pa.Table, kind: str, max_categories: int) -> tuple[str, ...]:
    """The contract's columns, and text columns of few values: those that say something."""
    chosen = []
    for name in table.column_names:
        contract = TABLES[kind].column(name)
        if name == _TITLE and contract is not None:
            chosen.append(name)
            continue
        if name in _NOT_FEATURES or (contract is not None and contract.kind in (Kind.ID, Kind.TIME)):
            continue
        column = table[name]
        if _is_categorical(column.type):
            few = contract is not None or pc.count_distinct(column).as_py() <= min(
                max_categories, len(table) // 2
            )
            if few and pc.count_distinct(column).as_py() > 1:
                chosen.append(name)
        elif contract is not None and _is_number(column.type):
            values = _numbers(column, f"{kind}.{name}")
            if _deviation(values[~np.isnan(values)]) > 0:
                chosen.append(name)
    return tuple(chosen)


def _deviation(values: Any) -> float:
    """Standard deviation of numbers, none missing; 0 where they are equal, but for rounding."""
    if len(values) == 0:
        return 0.0
    deviation = float(values.std())
    return deviation if deviation > _ROUNDING * abs(float(values.mean())) else 0.0


def _is_categorical(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, pa.string())


def _vocabulary(column: pa.ChunkedArray, max_categories: int) -> tuple[str, ...]:
    counts = pc.value_counts(pc.drop_null(_as_text(column))).to_pylist()
    ordered = sorted(counts, key=lambda entry: (-entry["counts"], entry["values"]))
    return tuple(entry["values"] for entry in ordered[:max_categories])


def _common_words(titles: pa.ChunkedArray, most: int) -> tuple[str, ...]:
    bags = [title_words(title) for title in _as_text(titles).to_pylist() if title]
    counts = Counter(word for bag in bags for word in bag)
    kept = [word for word, n in counts.items() if says_something(n, len(titles))]
    frequent = sorted(kept, key=lambda word: (-counts[word], word))[:most]
    return tuple(reversed(frequent))


def _numbers(column: pa.ChunkedArray, name: str) -> Any:
    """(n,) float64, NaN where missing.

    Raises:
        DataError: a value is infinite or no number; names the column.
    """
    try:
        values = np.asarray(pc.fill_null(pc.cast(column, pa.float64()), np.nan))
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: {error}; a feature that was a number must stay one") from None
    if np.isinf(values).any():
        many = int(np.isinf(values).sum())
        raise DataError(f"{name}: {many} of {len(values)} values infinite; leave them empty")
    return values


def _scale(column: pa.ChunkedArray, name: str, kind: str) -> Scale:
    values = _numbers(column, f"{kind}.{name}")
    log = name in _LOGARITHMIC
    values = np.log1p(np.maximum(values, 0)) if log else values
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else 0.0
    return Scale(mean, _deviation(values) or 1.0, log)
