"""The limit on threads of BLAS holds as long as anyone needs it, and not longer."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from spolia.blas import one_blas_thread


def n_threads():
    assert np.ones((2, 2)) @ np.ones(2) is not None  # numpy's BLAS is loaded
    return {of["num_threads"] for of in threadpool_info() if of["user_api"] == "blas"}


def test_blocks_that_overlap_restore_what_was_there():
    with threadpool_limits(2, user_api="blas"):
        before = n_threads()
        first, second = ExitStack(), ExitStack()
        first.enter_context(one_blas_thread())
        second.enter_context(one_blas_thread())
        first.close()  # the one that began first ends first, as in a server
        assert n_threads() == {1}
        second.close()
        assert n_threads() == before


def test_an_error_ends_the_limit_too():
    with threadpool_limits(2, user_api="blas"):
        before = n_threads()
        with pytest.raises(ValueError, match="stop"), one_blas_thread():
            raise ValueError("stop")
        assert n_threads() == before
