"""The settings of an evaluation, checked at the edge. Imports no torch, so that bad input is answered at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from animation.cluster import Cluster
from animation.errors import InputError
from animation.evaluation.cases import Case, find_cases
from animation.face.detection import find_face_models
from animation.flags import Settings, flag
from animation.media.writing import check_writable
from DWPose.sessions import find_model
from DWPose.wholebody import MODEL_FILES

PCK_THRESHOLDS = (0.05, 0.1)  # of the target's size
SHORTEST_CLIP = 9  # frames: I3D halves time three times and needs two steps of it


@dataclass(kw_only=True)
class Networks(Settings):
    """The networks that metrics need. `animation.weights.layout.fill_in` finds `face_models` and `pose_models`."""

    TITLE: ClassVar = "networks (a metric without its own is not run, and the table says so)"

    lpips_weights: str | None = flag(
        None, "torchvision's AlexNet or VGG-16 file, whose features LPIPS compares", metavar="FILE"
    )
    fvd_weights: str | None = flag(None, "I3D trained on Kinetics-400, a state dict, for FVD", metavar="FILE")
    fvd_clip_frames: int = flag(16, "frames of the clips that FVD compares", least=SHORTEST_CLIP)
    face_models: str | None = flag(
        None,
        "insightface's antelopev2, for CSIM; left out, the released one where it is, else the small one",
        metavar="DIR",
    )
    pose_models: str | None = flag(None, "DWPose's ONNX files, for PCK; left out, likewise", metavar="DIR")
    device: str = flag("auto", "auto, cuda, cuda:N, mps or cpu")


@dataclass(kw_only=True)
class EvaluationSettings(Networks, Cluster):
    """A comparison's settings, named as the flags of `evaluate.py`, whose help explains them."""

    results: str = flag(
        help="generated frames: a folder a case, as inference_basic.py writes it; or one case's frames or MP4",
        metavar="PATH",
    )
    truth: str = flag(
        help="what they are compared with: a folder a case of the same name; or one case, or its frames or MP4",
        metavar="PATH",
    )
    output_dir: str = flag(help="where the results go; made where missing", metavar="DIR")
    cases: list[str] = flag([], "compare only these; left out, all in --truth", metavar="NAME")
    max_frames: int | None = flag(None, "compare the first N frames; left out, all", least=1)

    def read_cases(self) -> list[Case]:
        """Check everything that can be checked without loading a network, and find the cases. Raises InputError."""
        self.check()
        for name, path in (("lpips_weights", self.lpips_weights), ("fvd_weights", self.fvd_weights)):
            if path is not None and not Path(path).is_file():
                raise InputError(f"--{name} {path}: no such file; leave it out to go without that metric")
        if self.face_models is not None:
            find_face_models(self.face_models)
        if self.pose_models is not None:
            for file in MODEL_FILES:
                find_model(Path(self.pose_models) / file)
        cases = find_cases(self.results, self.truth, self.cases, self.max_frames)
        check_writable(Path(self.output_dir))
        return cases
