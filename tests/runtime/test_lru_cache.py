from __future__ import annotations

from asr_pathways.runtime.lru_cache import LruCache


def test_the_least_recently_used_go_when_there_is_no_room() -> None:
    made: list[str] = []

    def value(key: str) -> str:
        def make() -> str:
            made.append(key)
            return 4 * key

        return cache.used(key, make)

    cache = LruCache[str, str](8, len)
    assert [value(key) for key in ("a", "b", "a", "c")] == ["aaaa", "bbbb", "aaaa", "cccc"]
    assert made == ["a", "b", "c"] and list(cache) == ["a", "c"] and cache.nbytes == 8
    assert value("b") == "bbbb" and made == ["a", "b", "c", "b"] and list(cache) == ["c", "b"]


def test_one_is_kept_however_large_it_is() -> None:
    cache = LruCache[str, str](1, len)
    for text in ("aaaaa", "bbb"):
        assert cache.used(text, text.upper) == text.upper()
        assert list(cache) == [text]
