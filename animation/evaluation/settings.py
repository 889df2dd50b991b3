"""The settings of an evaluation, checked at the edge. Imports no torch, so that bad input is answered at once."""

from dataclasses import dataclass
from pathlib import Path

from animation.errors import InputError
from animation.evaluation.cases import Case, find_cases
from animation.face.detection import find_face_models
from animation.media.writing import check_writable
from DWPose.sessions import find_model
from DWPose.wholebody import MODEL_FILES

FACE_MODELS = "models/antelopev2"  # where a folder is used without being named
POSE_MODELS = "checkpoints/DWPose"
PCK_THRESHOLDS = (0.05, 0.1)  # of the target's size
SHORTEST_CLIP = 9  # frames: I3D halves time three times and needs two steps of it


@dataclass(kw_only=True)
class EvaluationSettings:
    """A comparison's settings, named as the flags of `evaluate.py`, whose help explains them."""

    results: str
    truth: str
    output_dir: str
    cases: tuple[str, ...] = ()
    max_frames: int | None = None
    lpips_weights: str | None = None
    fvd_weights: str | None = None
    fvd_clip_frames: int = 16
    face_models: str | None = None
    pose_models: str | None = None
    device: str = "auto"

    def read_cases(self) -> list[Case]:
        """Check everything that can be checked without loading a network, and find the cases.

        Raises:
            InputError: a setting is out of range, a file or results are missing, or the output cannot be
                written.
        """
        if self.max_frames is not None and self.max_frames < 1:
            raise InputError(f"--max_frames {self.max_frames} is below 1; leave it out to compare all frames")
        if self.fvd_clip_frames < SHORTEST_CLIP:
            raise InputError(f"--fvd_clip_frames {self.fvd_clip_frames} is below {SHORTEST_CLIP}; 16 is usual")
        for flag in ("lpips_weights", "fvd_weights"):
            path = getattr(self, flag)
            if path is not None and not Path(path).is_file():
                raise InputError(f"--{flag} {path}: no such file; leave it out to go without that metric")
        if self.face_models is not None:
            find_face_models(self.face_models)
        if self.pose_models is not None:
            for name in MODEL_FILES:
                find_model(Path(self.pose_models) / name)
        cases = find_cases(self.results, self.truth, self.cases, self.max_frames)
        check_writable(Path(self.output_dir))
        return cases
