"""The bytes of tensors that code really takes on the CPU, as torch's allocator counts them, kernels' own included."""

from collections.abc import Callable

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

START = "what is measured"


def peak_allocated(work: Callable[[], object], before: Callable[[], object] | None = None) -> int:
    """The most bytes alive at a time that were allocated while `work()` runs, less what of them `work` gave up.

    `before()` makes anew what `work()` will give up: the allocator does not tell the size of older blocks.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        if before is not None:
            before()
        with record_function(START):
            pass
        result = work()
    del result
    events, waiting, start = [], list(profiler.profiler.kineto_results.experimental_event_tree()), None
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
        elif event.name == START:
            start = event.start_time_ns
    alive: dict[int, int] = {}
    now = base = peak = 0
    for time, pointer, size in sorted(events, key=lambda event: event[0]):
        if size > 0:
            alive[pointer] = size
            now += size
        else:
            now -= alive.pop(pointer, 0)
        if time < start:
            base = peak = now
        peak = max(peak, now)
    return peak - base
