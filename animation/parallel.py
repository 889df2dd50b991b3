"""One video on several processes, as accelerate, torchrun and `animation.launch` start them: whose work is whose.

All processes load the same inputs and networks. Each does its share of windows, guidance branches and chunks, what they
found is summed, and the first one writes. Of one process alone, every method hands back what it is given.
"""

import atexit
import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from animation.errors import RunError

if TYPE_CHECKING:
    import numpy as np
    import torch

LONGEST_WAIT = timedelta(hours=12)  # of all processes for one, such as the first one at the skeletons
SECONDS_FOR_THE_LAUNCHER = 20.0  # in which it ends this process, where another one has ended
T = TypeVar("T")


def rounds(items: int, count: int) -> tuple[int, float]:
    """How many items the busiest of so many processes does, and which share of their time all are at work."""
    most = -(-items // count)
    return most, items / (most * count)


class Processes:
    """The processes that make one video together.

    Attributes:
        rank, count: which of how many this is.
        local_rank: which on its machine, and so which GPU.
        traffic: bytes of tensors that went into sums and copies so far.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0):
        self.rank, self.count, self.local_rank, self.traffic = rank, count, local_rank, 0

    @classmethod
    def of_environment(cls) -> "Processes":
        """Read from the variables that launchers set."""
        defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        return cls(*(int(os.environ.get(name, default)) for name, default in defaults.items()))

    @property
    def is_first(self) -> bool:
        """Whether this process writes, logs and shows its progress."""
        return self.rank == 0

    @property
    def log_level(self) -> int:
        """What it logs: the others would repeat the first one."""
        return logging.INFO if self.is_first else logging.ERROR

    def print(self, text: str) -> None:
        """Print at once, in the first process."""
        if self.is_first:
            print(text, flush=True)

    def connect(self, device: "torch.device") -> None:
        """Start to work together: NCCL between GPUs, gloo between hosts' memories. The others' bars are not shown."""
        import torch.distributed as dist
        from tqdm import tqdm

        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
            atexit.register(dist.destroy_process_group)  # before Python goes: gloo's threads would abort the process
            if not self.is_first:
                setattr(tqdm, "__init__", functools.partialmethod(tqdm.__init__, disable=True))  # noqa: B010

    def own(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of some items: consecutive ones, and no process has two more than another."""
        return items[len(items) * self.rank // self.count : len(items) * (self.rank + 1) // self.count]

    def owners(self, length: int) -> list[int]:
        """The rank of the process that owns each of so many items."""
        return [rank for rank in range(self.count) for _ in Processes(rank, self.count).own(range(length))]

    def sum(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The sum of a tensor over the processes, bit for bit the same on all."""
        if self.count > 1:
            import torch.distributed as dist

            with self._together(tensor.nbytes):
                dist.all_reduce(tensor := tensor.contiguous())
        return tensor

    def copy(self, tensor: "torch.Tensor", source: int = 0) -> "torch.Tensor":
        """A contiguous tensor as the process of that rank has it, in place."""
        if self.count > 1:
            import torch.distributed as dist

            with self._together(tensor.nbytes):
                dist.broadcast(tensor, source)
        return tensor

    def first(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them, which wait for it."""
        made: list[Any] = [make() if self.is_first else None]
        if self.count > 1:
            import torch
            import torch.distributed as dist

            with self._together(0):
                dist.broadcast_object_list(made, 0, device=torch.device("cpu"))
        return made[0]

    def in_order(self, items: Sequence[T], make: Callable[[T], "np.ndarray"]) -> Iterator["np.ndarray"]:
        """Arrays made of all items by turns, in their order, on the first process; nothing on the others."""
        import torch
        import torch.distributed as dist

        for start in range(0, len(items), self.count):
            turn = items[start : start + self.count]
            made: list[Any] = [make(turn[self.rank]) if self.rank < len(turn) else None]
            if self.is_first:
                yield made[0]
            for source in range(1, len(turn)):
                if self.is_first:
                    with self._together(0):
                        dist.recv_object_list(made, source, device=torch.device("cpu"))
                    yield made[0]
                elif source == self.rank:
                    with self._together(made[0].nbytes):
                        dist.send_object_list(made, 0, device=torch.device("cpu"))

    @contextlib.contextmanager
    def _together(self, traffic: int) -> Iterator[None]:
        """Within the context, an error of the connection is one of another process, which the launcher tells of."""
        self.traffic += traffic
        try:
            yield
        except RuntimeError as error:
            time.sleep(SECONDS_FOR_THE_LAUNCHER)
            raise RunError(f"another of the {self.count} processes has ended ({str(error).splitlines()[0]})") from None


ALONE = Processes()
