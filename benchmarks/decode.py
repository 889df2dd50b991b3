"""Time of decoding with SVD's decoder and with TAESD's, random weights of the released sizes, in turn.

    python -m benchmarks.decode --frames 1 --height 256 --width 256

The ratio is that of a repetition's two times, given as median (smallest to largest).
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLTemporalDecoder, AutoencoderTiny

from animation.decoding import LATENT_SIZE, decode_frames
from animation.runtime import DTYPES, keep_freed_memory
from benchmarks.timing import seconds_in_turn, spread

WIDTHS = (128, 256, 512, 512)  # of SVD's VAE
DECODERS = "SVD's decoder", "TAESD"


def build_vae(widths: tuple[int, ...] = WIDTHS) -> AutoencoderKLTemporalDecoder:
    """A VAE of SVD's class, with random weights."""
    blocks = ("DownEncoderBlock2D",) * len(widths)
    return AutoencoderKLTemporalDecoder(block_out_channels=widths, down_block_types=blocks, layers_per_block=2)


def build_decoders(
    device: str, name: str, frames: int, height: int, width: int, widths: tuple[int, ...] = WIDTHS
) -> dict[str, Callable[[], torch.Tensor]]:
    """Decoding of so many frames, (frames, 3, height, width), by the decoder and the number format."""
    full, tiny = build_vae(widths), AutoencoderTiny()  # whose defaults are TAESD's
    size = frames, 4, height // LATENT_SIZE, width // LATENT_SIZE
    latents = torch.zeros(size, device=device, dtype=DTYPES[name])
    vaes = [torch.nn.Module.to(vae, device, DTYPES[name]).eval() for vae in (full, tiny)]
    calls = [lambda vae=vae: decode_frames(vae, latents) for vae in vaes]
    return {f"decode {frames} frames {name}, {vae}": call for vae, call in zip(DECODERS, calls, strict=True)}


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--height", type=int, default=256, help="pixels")
    parser.add_argument("--width", type=int, default=256, help="pixels")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.device == "cpu":
        keep_freed_memory()
    seconds = seconds_in_turn(
        build_decoders(args.device, args.dtype, args.frames, args.height, args.width), args.repeats
    )
    for call, times in seconds.items():
        print(f"{call:44s} {statistics.median(times):8.3g} s")
    print(f"{' / '.join(DECODERS):44s} {spread(*seconds.values())} times as fast")


if __name__ == "__main__":
    main()
