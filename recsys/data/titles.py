"""Words of a title, in scripts that part them and in scripts that do not."""

from __future__ import annotations

import re

#: Letters written without spaces: Han and the Japanese syllables; and Hangul, whose endings cling to words.
_UNPARTED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
#: A run of them, or else a word of at least three letters; digits part words.
_WORD = re.compile(rf"[{_UNPARTED}]+|[^\W\d_{_UNPARTED}]{{3,}}")
_RUN = re.compile(rf"[{_UNPARTED}]")
#: A word says something of others if so many titles have it, and no more than this share of all.
_LEAST_TITLES, _MOST_OF_TITLES = 3, 1 / 3


def title_words(title: str) -> list[str]:
    """The distinct words of a title in lower case, sorted.

    A run of letters written without spaces gives its pairs of neighbours, 保溫杯 gives 保溫 and 溫杯: in
    search such pairs do about as well as a segmenter's words (Nie et al., "On the use of words and n-grams
    for Chinese information retrieval", 2000), and need no dictionary.
    """
    found: set[str] = set()
    for run in _WORD.findall(title.lower()):
        if _RUN.match(run) and len(run) > 1:
            found.update(run[at : at + 2] for at in range(len(run) - 1))
        else:
            found.add(run)
    return sorted(found)


def says_something(n: int, titles: int) -> bool:
    """Whether a word that n of so many titles have parts some from the others."""
    return _LEAST_TITLES <= n <= _MOST_OF_TITLES * titles
