"""How well the small networks know puppets that they never saw: figures for the model card.

python -m recipes.measure
"""

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from animation.evaluation.metrics import psnr
from animation.face.detection import FaceFinder
from animation.weights.loading import load_vae
from DWPose.keypoints import to_openpose
from DWPose.wholebody import MODEL_FILES, Wholebody
from puppets.characters import make_character
from puppets.clips import make_clip
from puppets.motions import make_motion
from puppets.rendering import Place, render
from puppets.seeds import generator
from recipes.recogniser import make_face
from recipes.scenes import make_stage
from recipes.vae import SIDE as VAE_SIDE
from recipes.videos import round_trip

BODY_POINTS = 18
FACES_A_PERSON = 4


def measure_people(wholebody: Wholebody, clips: int, frames: int, side: int) -> dict[str, float]:
    """Share of frames with the person found, and PCK of the body at 0.05 of the person's height."""
    found, right, total = [], 0, 0
    for clip in tqdm(range(clips), desc="people", unit="clip"):
        rng = generator("held_out", clip, "measured people")
        character, motion, stage = make_character("held_out", clip), make_motion("held_out", clip), make_stage(rng)
        for frame in range(frames):
            image, (truth,) = render([(character, motion(frame), Place())], stage, side, side)
            people = wholebody(image)
            found.append(people.detected)
            target, present = to_openpose(truth.keypoints[None], truth.present[None].astype(float))
            distances = np.linalg.norm(people.keypoints[0] - target[0], axis=1)[:BODY_POINTS]
            present = present[0, :BODY_POINTS] > 0
            right += (present & (distances <= 0.05 * np.ptp(truth.person_box[1::2]))).sum()
            total += present.sum()
    return {"person_found": float(np.mean(found)), "pck_0.05": float(right / total), "frames": len(found)}


def measure_faces(finder: FaceFinder, people: int) -> dict[str, float]:
    """Accuracy of telling same from different characters at the best threshold, over balanced pairs."""
    count = people * FACES_A_PERSON
    faces = (make_face("held_out", number // FACES_A_PERSON, number, aligned=True) for number in range(count))
    recogniser = finder.analysis.models["recognition"]
    found = np.stack([recogniser.get_feat(face[..., ::-1])[0] for face in tqdm(faces, "faces", count, unit="face")])
    found = (found / np.linalg.norm(found, axis=1, keepdims=True)).reshape(people, FACES_A_PERSON, -1)
    same = np.concatenate([(found[:, a] * found[:, b]).sum(-1) for a, b in combinations(range(FACES_A_PERSON), 2)])
    rng, different = generator("held_out", 0, "measured pairs"), []
    while len(different) < len(same):
        (a, b), (i, k) = rng.integers(people, size=2), rng.integers(FACES_A_PERSON, size=2)
        if a != b:
            different.append(found[a, i] @ found[b, k])
    accuracies = [((same > t).mean() + (np.array(different) <= t).mean()) / 2 for t in np.linspace(-1, 1, 401)]
    means = {"same": float(same.mean()), "different": float(np.mean(different))}
    return {"verification_accuracy": float(max(accuracies)), **means, "pairs": 2 * len(same)}


def measure_vae(vae: torch.nn.Module, clips: int, frames: int) -> dict[str, float]:
    """PSNR of the round trip through latents, at the working size, a mean over frames."""
    values = []
    for index in tqdm(range(clips), desc="round trips", unit="clip"):
        clip = make_clip("held_out", index)
        images = [clip.render(3 * frame, VAE_SIDE, VAE_SIDE)[0] for frame in range(frames)]
        values += [psnr(*pair) for pair in zip(round_trip(vae, np.stack(images)), images, strict=True)]
    return {"vae_psnr": float(np.mean(values)), "vae_psnr_worst": float(np.min(values))}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dwpose", type=Path, default=Path("checkpoints/tiny/DWPose"))
    parser.add_argument("--face_models", type=Path, default=Path("models/tiny/antelopev2"))
    parser.add_argument("--vae", type=Path, default=Path("checkpoints/tiny/SVD/vae"))
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--side", type=int, default=256, help="pixels of the pictures")
    parser.add_argument("--people", type=int, default=100, help="characters whose faces are told apart")
    args = parser.parse_args()
    figures = {}
    if args.dwpose.is_dir():
        wholebody = Wholebody(*(args.dwpose / name for name in MODEL_FILES))
        figures |= measure_people(wholebody, args.clips, args.frames, args.side)
    if args.face_models.is_dir():
        figures |= measure_faces(FaceFinder(args.face_models), args.people)
    if args.vae.is_dir():
        figures |= measure_vae(load_vae(args.vae), args.clips, args.frames)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
