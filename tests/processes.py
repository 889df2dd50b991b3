"""Several processes that work together over gloo, forked from a test, which saves them its imports."""

import faulthandler
import gc
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils.other import get_free_port

PATIENCE = 300  # seconds, after which a process prints where it hangs, and ends
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")


def together(folder: Path, count: int, make) -> list:
    """What `make(rank)` returns in each of so many processes, whose environment is as of a launcher."""
    port = get_free_port()

    def work(rank: int) -> None:
        gc.freeze()  # garbage of the parent's, as a video half read, waits when freed for threads that are not here
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in (address | ranks).items()})
        (folder / f"made-by-{rank}").write_bytes(pickle.dumps(make(rank)))

    context = torch.multiprocessing.get_context("fork")
    running = [context.Process(target=work, args=(rank,)) for rank in range(count)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    ended = [process.exitcode for process in running]
    assert ended == [0] * count, f"the processes ended with {ended}"
    return [pickle.loads((folder / f"made-by-{rank}").read_bytes()) for rank in range(count)]
