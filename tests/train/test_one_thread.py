"""The thread that prepares batches uses no team of its own, and the trainer keeps its."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from exnihilo.environment import one_thread


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="OpenMP is reached on Linux alone")
def test_one_thread_is_of_the_calling_thread_alone():
    before = torch.get_num_threads()
    seen: dict[str, int] = {}

    def prepare() -> None:
        one_thread()
        torch.rand(64, 64) @ torch.rand(64, 64)
        seen["prepares"] = torch.get_num_threads()

    def other() -> None:
        seen["other"] = torch.get_num_threads()

    try:
        torch.set_num_threads(2)
        for work in (prepare, other):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert seen == {"prepares": 1, "other": 2} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
