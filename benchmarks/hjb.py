"""What the face optimisation's economies cost: time of recomputing, and time and error of decoding the faces alone.

    python -m benchmarks.hjb --size 256
    python -m benchmarks.hjb --vae DIR              # with real weights, in place of random ones

Times are of one gradient, as a multiple of that with all activations kept: median (smallest to largest). Errors are
against the gradient of whole frames, similarities those that whole frames have after a step.
"""

import argparse

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLTemporalDecoder

from animation.decoding import LATENT_SIZE
from animation.face.boxes import FaceBox
from animation.face_optimization import FaceOptimizer, latent_window
from animation.modules.arcface import ArcFace
from animation.weights.loading import load_vae
from benchmarks.timing import seconds_in_turn, spread

FRAMES = 4
WIDTHS = (64, 128, 256, 256)  # of the decoder, half of SVD's
KEPT, WHOLE = "whole frames, activations kept", "whole frames"  # those of all others are recomputed


def face_boxes(size: int) -> list[FaceBox]:
    """A face in the upper middle of each frame, a fifth of its height, wandering from frame to frame."""
    side = round(0.2 * size)
    corners = [(size // 6 + 3 * i, (size - side) // 2 + 5 * i) for i in range(FRAMES)]
    return [FaceBox(top, top + side - 1, left, left + side - 1) for top, left in corners]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels of a side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vae", help="a VAE folder with real weights")
    args = parser.parse_args()
    torch.manual_seed(0)
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=WIDTHS, down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
    )
    vae = load_vae(args.vae) if args.vae else vae.eval().requires_grad_(False)
    torch.manual_seed(1)
    arcface = ArcFace(widths=(8, 8, 16, 16, 32), depths=(1, 2, 2, 1)).eval().requires_grad_(False)
    reference = torch.randn(1, arcface.config.embedding_dim)
    side = args.size // LATENT_SIZE
    latents = torch.randn(FRAMES, 4, side, side, generator=torch.Generator().manual_seed(2)) * 0.5
    variants = {KEPT: {"checkpointing": False}, WHOLE: {}}
    variants |= {f"faces and {margin} latents around": {"crop_margin": margin} for margin in (0, 2, 4, 8, 16)}
    hooks = {
        name: FaceOptimizer(vae, arcface, reference, face_boxes(args.size), progress=False, **changes)
        for name, changes in variants.items()
    }
    whole = hooks[WHOLE]
    seconds = seconds_in_turn({name: lambda h=hook: h.gradient(latents) for name, hook in hooks.items()}, args.repeats)
    expected = whole.gradient(latents)[1]
    print(f"{args.vae or 'random weights'}, {FRAMES} frames of {args.size}×{args.size}")
    print(f"similarity before the step: {whole.similarity(latents):.3f}")
    print(f"{'variant':32s} {'decoded':>7s} {'time':22s} {'error':>6s} {'cosine':>7s} {'similarity':>11s}")
    for name, hook in hooks.items():
        margin = side if hook.crop_margin is None else hook.crop_margin
        rows, columns = latent_window(hook.boxes, margin, side, side)
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / side**2
        time = spread(seconds[name], seconds[KEPT])
        found = hook.gradient(latents)[1]
        error = ((found - expected).norm() / expected.norm()).item()
        cosine = F.cosine_similarity(found.flatten(), expected.flatten(), dim=0).item()
        reached = whole.similarity(hook(latents[None], 0, 25)[0])
        print(f"{name:32s} {share:7.0%} {time:22s} {error:6.2f} {cosine:7.3f} {reached:11.3f}")


if __name__ == "__main__":
    main()
