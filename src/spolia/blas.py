"""One thread of numpy's linear algebra where our own threads share the work.

Two of ours with two of BLAS each compete for two cores: a track of four minutes then takes
24.8 s instead of 22.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from threadpoolctl import threadpool_limits

_lock = Lock()
_held: list[Any] = []  # one entry for each block that is being executed, the first with the limit


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread, in the whole process, until the last such block ends."""
    with _lock:
        _held.append(None if _held else threadpool_limits(1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            if len(_held) == 1:
                _held[0].restore_original_limits()
            _held.pop()
