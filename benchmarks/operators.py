"""Where the time of a guided step goes, by kind of operator, as torch's profiler finds it on a CPU.

    python -m benchmarks.operators --config released --frames 4 --step "ours fp32"

Takes the sizes and the steps of `benchmarks.denoise`.
"""

from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.denoise import build_steps, make_parser

KINDS = {
    "addmm": "linear layers",
    "mm": "linear layers",
    "linear": "linear layers",
    "mkldnn_linear": "linear layers",
    "bmm": "batched products",
    "baddbmm": "batched products",
    "copy_": "copies",
    "cat": "copies",
    "native_group_norm": "group norms",
    "native_layer_norm": "layer norms",
    "silu": "element-wise",
    "gelu": "element-wise",
    "mul": "element-wise",
    "add": "element-wise",
    "rsub": "element-wise",
}
WARM_UPS = 3


def kind_of(name: str, shapes: list) -> str:
    """The kind of an operator, such as `aten::addmm`, by its name and by its inputs' shapes."""
    name = name.removeprefix("aten::").rstrip("_") + ("_" if name.endswith("copy_") else "")
    if "convolution" in name:
        kernel = shapes[1][2:] if len(shapes) > 1 else []
        return f"convolutions {'×'.join(map(str, kernel))}"
    return "attention" if "attention" in name else KINDS.get(name, "the rest")


@torch.inference_mode()
def main() -> None:
    """Profile one step and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--step", default="ours fp32", help="which, by its name in benchmarks.denoise")
    args = parser.parse_args()
    dtype = next(dtype for dtype in args.dtypes if dtype in args.step)
    step = build_steps(args, dtype, args.step.startswith("ours"))[args.step]
    for _ in range(WARM_UPS):
        step()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        step()
    times: Counter[str] = Counter()
    for event in profiler.key_averages(group_by_input_shape=True):
        times[kind_of(event.key, event.input_shapes)] += event.self_cpu_time_total / 1e6
    whole = sum(times.values())
    print(f"{args.step}, {args.config} widths, {args.frames} frames of {args.width}×{args.height}: {whole:.2f} s")
    print("\n".join(f"{kind:24s} {seconds:7.3f} s {seconds / whole:5.1%}" for kind, seconds in times.most_common()))


if __name__ == "__main__":
    main()
