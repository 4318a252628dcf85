"""What all tests share."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two busy pools stall each other

import pytest

from corpora import make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Give each module a small corpus of its own."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))
