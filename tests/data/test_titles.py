"""Words of titles, by hand."""

from __future__ import annotations

import pytest

from recsys.data.titles import title_words


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Compact Sports bra no. 920", ["bra", "compact", "sports"]),
        ("KIDS CEREAL 14.5 OZ, kids", ["cereal", "kids"]),
        ("crème brûlée", ["brûlée", "crème"]),
        ("保溫杯", ["保溫", "溫杯"]),
        ("茶", ["茶"]),
        ("2024新款 Nike運動鞋", ["nike", "動鞋", "新款", "運動"]),
        ("カップ 컵라면", ["カッ", "ップ", "라면", "컵라"]),
        ("", []),
        ("12 + 5", []),
    ],
)
def test_words_of_a_title(title: str, words: list[str]) -> None:
    assert title_words(title) == words
