"""How well the small DWPose and antelopev2 know puppets that they never saw: figures for the model card.

python -m recipes.measure
"""

import itertools

import numpy as np
from animation.face.detection import FaceDetector
from tqdm import tqdm

from DWPose.keypoints import to_openpose
from DWPose.wholebody import Wholebody
from puppets.characters import make_character
from puppets.motions import make_motion
from puppets.rendering import Place, render
from puppets.seeds import generator
from recipes.recogniser import make_face
from recipes.scenes import make_stage

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
            height = np.ptp(truth.person_box[1::2])
            body = slice(0, BODY_POINTS)
            near = np.linalg.norm(people.keypoints[0, body] - target[0, body], axis=1) <= 0.05 * height
            right += (near & (present[0, body] > 0)).sum()
            total += (present[0, body] > 0).sum()
    return {"person_found": float(np.mean(found)), "pck_0.05": float(right / total), "frames": len(found)}


def measure_faces(detector: FaceDetector, people: int) -> dict[str, float]:
    """Accuracy of telling same from different characters at the best threshold, over balanced pairs."""
    embeddings = {}
    for who, number in tqdm(list(itertools.product(range(people), range(FACES_A_PERSON))), desc="faces", unit="face"):
        face = make_face("held_out", who, who * FACES_A_PERSON + number, aligned=True)
        embedding = detector.recogniser.get_feat(face[..., ::-1])[0]
        embeddings[who, number] = embedding / np.linalg.norm(embedding)
    same = [
        embeddings[who, a] @ embeddings[who, b]
        for who in range(people)
        for a, b in itertools.combinations(range(FACES_A_PERSON), 2)
    ]
    rng = generator("held_out", 0, "measured pairs")
    different = []
    while len(different) < len(same):
        (a, b), (i, k) = rng.integers(people, size=2), rng.integers(FACES_A_PERSON, size=2)
        if a != b:
            different.append(embeddings[a, i] @ embeddings[b, k])
    same, different = np.array(same), np.array(different)
    accuracies = [((same > t).mean() + (different <= t).mean()) / 2 for t in np.linspace(-1, 1, 401)]
    return {"verification_accuracy": float(max(accuracies)), "same": float(same.mean()),
            "different": float(different.mean()), "pairs": 2 * len(same)}  # fmt: skip
