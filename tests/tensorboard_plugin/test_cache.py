from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from gradwatch.tensorboard_plugin.cache import Cache


def test_what_was_made_is_kept_until_its_stamp_changes() -> None:
    cache, made = Cache(100), list[int]()

    def make(stamp: int) -> int:
        made.append(stamp)
        return stamp

    def get(stamp: int) -> int:
        return cache.get("run", stamp, make=lambda: make(stamp), size=lambda _: 1)

    assert [get(stamp) for stamp in (1, 1, 2, 2, 1)] == [1, 1, 2, 2, 1]
    assert made == [1, 2, 1]


def test_the_least_used_goes_when_there_is_no_room() -> None:
    cache, made = Cache(25), list[str]()

    def get(key: str) -> None:
        cache.get(key, 0, make=lambda: made.append(key), size=lambda _: 10)

    for key in "aabcacb":
        get(key)
    assert "".join(made) == "abcab"


def test_what_is_larger_than_the_room_is_kept_alone() -> None:
    cache, made = Cache(5), list[str]()

    def get(key: str) -> None:
        cache.get(key, 0, make=lambda: made.append(key), size=lambda _: 10)

    for key in "aabb":
        get(key)
    assert made == ["a", "b"]


def test_threads_may_ask_together() -> None:
    cache = Cache(50)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: cache.get(i % 7, 0, make=lambda: i % 7, size=lambda _: 10), range(2000)))
    assert found == [i % 7 for i in range(2000)]
