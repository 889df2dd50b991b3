"""What is measured on each case, frame by frame: the formulas of `metrics.py` with the networks that they need."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from animation.errors import InputError
from animation.evaluation import metrics
from animation.evaluation.cases import Case, Chunk
from animation.evaluation.networks import load_i3d, load_lpips
from animation.evaluation.settings import PCK_THRESHOLDS, EvaluationSettings
from animation.face.detection import FaceFinder, find_face_models
from animation.face.embedding import embed_largest
from DWPose.keypoints import BODY
from DWPose.wholebody import MODEL_FILES, Wholebody

Values = dict[str, list[float | None]]  # by column, one a frame; None: does not exist for this frame
I3D_SIZE = (224, 224)  # pixels, height and width


class NotRun(Exception):
    """Why a metric cannot be measured here; raised when its measure is made."""


class Measure:
    """One kind of measurement. `faces` and `features` are those of a `Record`."""

    columns: tuple[str, ...] = ()  # names of its values
    faces: Mapping[str, list[int]] = {}
    features: Mapping[str, list[list[float]]] = {}

    def begin(self, case: Case) -> dict[str, str]:
        """Prepare for a case; returns, by column, why it does not apply to it."""
        return {}

    def values(self, chunk: Chunk) -> Values:
        """The values of a chunk's frames, of the columns that apply."""
        raise NotImplementedError


class Pairs(Measure):
    """Each generated frame against the true one: by column, a function of both and the least side of a frame."""

    def __init__(self, functions: Mapping[str, tuple[Callable[[np.ndarray, np.ndarray], float], int]]):
        self.functions = functions

    def begin(self, case: Case) -> dict[str, str]:
        small = {name: least for name, (_, least) in self.functions.items() if min(case.size) < least}
        reasons = {name: f"frames smaller than {least}×{least}" for name, least in small.items()}
        if case.truth is None:
            reasons = dict.fromkeys(self.functions, "no ground truth")
        self.applying = {name: function for name, (function, _) in self.functions.items() if name not in reasons}
        return reasons

    def values(self, chunk: Chunk) -> Values:
        pairs = list(zip(chunk.result, chunk.truth, strict=True)) if self.applying else []
        return {name: [function(*pair) for pair in pairs] for name, function in self.applying.items()}


class Pixels(Pairs):
    """L1, PSNR, DisCo's PSNR and SSIM against the ground truth."""

    columns = ("l1", "psnr", "psnr_disco", "ssim")

    def __init__(self) -> None:
        super().__init__({name: (getattr(metrics, name), 11 if name == "ssim" else 1) for name in self.columns})


class Perceptual(Pairs):
    """LPIPS against the ground truth, with torchvision's AlexNet or VGG-16, and torchmetrics' released heads.

    Raises NotRun where one is not there, InputError where the weights do not do.
    """

    columns = ("lpips",)

    def __init__(self, weights: str | None, device: torch.device):
        super().__init__({"lpips": (self.distance, 32)})
        if weights is None:
            raise NotRun("give torchvision's AlexNet or VGG-16 file with --lpips_weights")
        package = importlib.util.find_spec("torchmetrics")
        if package is None:
            raise NotRun("torchmetrics is not installed: pip install -r requirements-eval.txt")
        heads = Path(package.origin).parent / "functional" / "image" / "lpips_models"
        self.network, self.device = load_lpips(weights, heads).to(device), device

    @torch.inference_mode()
    def distance(self, image: np.ndarray, truth: np.ndarray) -> float:
        """LPIPS of two images, (H, W, 3) uint8."""
        return self.network(*(_to_tensor(x[None]).to(self.device) for x in (image, truth))).item()


class Identity(Measure):
    """CSIM: cosine of ArcFace embeddings, of the largest face in each generated frame and in what it is compared with.

    insightface is handed BGR, as it expects, whatever the animated checkpoint was trained with: this is a ruler, not
    part of the model. Raises NotRun where its models are not there, InputError where they are damaged.
    """

    columns = ("csim_photo", "csim_truth", "csim_driver")

    def __init__(self, models_folder: str | Path, device: torch.device):
        try:
            find_face_models(models_folder)
        except InputError:
            raise NotRun(f"no face models in {models_folder}; name their folder with --face_models") from None
        self.finder = FaceFinder(models_folder, device=device.type)

    def embed(self, image_rgb: np.ndarray) -> np.ndarray | None:
        """The embedding of the largest face in (H, W, 3) uint8, (512,); None: no face."""
        return embed_largest(self.finder, image_rgb, "bgr")

    def begin(self, case: Case) -> dict[str, str]:
        self.photo = None if case.photo is None else self.embed(np.asarray(case.photo))
        self.faces = {part: [0, 0] for part in ("result", "truth", "driver")}
        lacking = {
            "csim_photo": (self.photo, "no photo" if case.photo is None else "no face in the photo"),
            "csim_truth": (case.truth, "no ground truth"),
            "csim_driver": (case.driver, "no driver"),
        }
        return {column: reason for column, (part, reason) in lacking.items() if part is None}

    def values(self, chunk: Chunk) -> Values:
        """One cosine a frame and column; None where one of both images shows no face."""
        embeddings = {} if self.photo is None else {"photo": [self.photo] * len(chunk.result)}
        for part, counts in self.faces.items():
            frames = getattr(chunk, part)
            if frames is not None:
                embeddings[part] = [self.embed(frame) for frame in frames]
                counts[0] += sum(embedding is not None for embedding in embeddings[part])
                counts[1] += len(frames)
        results = embeddings.pop("result")
        return {
            f"csim_{part}": [
                None if own is None or other is None else metrics.cosine(own, other)
                for own, other in zip(results, others, strict=True)
            ]
            for part, others in embeddings.items()
        }


class Skeleton(Measure):
    """PCK of the body: key points found in the generated frames against those that were to be followed.

    The target is what the case's skeletons were drawn from, else what the estimator finds in the ground truth, else
    in the driver. Raises NotRun where DWPose's networks are not there, InputError where they are damaged.
    """

    columns = tuple(f"pck_{threshold:g}" for threshold in PCK_THRESHOLDS)

    def __init__(self, models_folder: str | Path, device: torch.device):
        detector, estimator = (Path(models_folder) / name for name in MODEL_FILES)
        if not (detector.is_file() and estimator.is_file()):
            raise NotRun(f"no pose models in {models_folder}; name their folder with --pose_models")
        self.find_people = Wholebody(detector, estimator, "cuda" if device.type == "cuda" else "cpu")

    def begin(self, case: Case) -> dict[str, str]:
        applies = any(part is not None for part in (case.keypoints, case.truth, case.driver))
        return {} if applies else dict.fromkeys(self.columns, "no key points, ground truth or driver")

    def values(self, chunk: Chunk) -> Values:
        """One fraction a frame and threshold; None where the target shows no body."""
        case, rows = chunk.case, []
        targets = chunk.driver if chunk.truth is None else chunk.truth
        if case.keypoints is None and targets is None:
            return {}
        for i, frame in enumerate(chunk.result):
            if case.keypoints is not None:
                points, scores = case.keypoints[chunk.start + i], case.scores[chunk.start + i]
            else:
                points, scores = self.largest(targets[i])
            found, found_scores = self.largest(frame)
            points, found = points * case.size, found * case.size  # pixels of the generated frame
            row = metrics.pck(found[BODY], found_scores[BODY], points[BODY], scores[BODY], PCK_THRESHOLDS)
            rows.append(row or [None] * len(self.columns))
        return {name: list(column) for name, column in zip(self.columns, zip(*rows, strict=True), strict=True)}

    def largest(self, image_rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Key points (134, 2) in 0..1 of the frame, and scores (134,), of the person with the largest box."""
        people = self.find_people(image_rgb)
        index = int(np.prod(people.boxes[:, 2:4] - people.boxes[:, :2], axis=1).argmax())
        return people.keypoints[index] / image_rgb.shape[1::-1], people.scores[index]


class VideoDistance(Measure):
    """FVD: Fréchet distance of I3D's features of clips, of all cases together, between results and ground truth.

    Clips of `clip_frames` frames follow one another without overlap; frames left over at a video's end are left out.
    Frames are resized to 224×224, bilinear. Raises NotRun without weights, InputError where the file does not do.
    """

    columns = ("fvd",)

    def __init__(self, weights: str | None, clip_frames: int, device: torch.device):
        if weights is None:
            raise NotRun("give I3D's weights, trained on Kinetics-400, with --fvd_weights")
        self.network, self.device, self.clip_frames = load_i3d(weights).to(device), device, clip_frames

    def begin(self, case: Case) -> dict[str, str]:
        self.features = {"result": [], "truth": []}
        self.waiting: dict[str, list[torch.Tensor]] = {"result": [], "truth": []}
        return {}

    @torch.inference_mode()
    def values(self, chunk: Chunk) -> Values:
        """No value a frame: collect frames until a clip is full, and its features."""
        for part, waiting in self.waiting.items() if chunk.truth is not None else ():
            for frame in _to_tensor(getattr(chunk, part)):
                waiting.append(F.interpolate(frame[None], I3D_SIZE, mode="bilinear", align_corners=False)[0])
                if len(waiting) == self.clip_frames:
                    clip = torch.stack(waiting, dim=1)[None]  # (1, 3, T, 224, 224)
                    self.features[part].append(self.network(clip.to(self.device))[0].tolist())
                    waiting.clear()
        return {}


def _to_tensor(frames: np.ndarray) -> torch.Tensor:
    """(n, H, W, 3) uint8 → (n, 3, H, W) in −1..1."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def make_measures(settings: EvaluationSettings, device: torch.device) -> tuple[list[Measure], dict[str, str]]:
    """The measures that can run here, and by column why the others cannot. Raises InputError for given files."""
    kinds: list[tuple[type[Measure], tuple]] = [
        (Pixels, ()),
        (Perceptual, (settings.lpips_weights, device)),
        (VideoDistance, (settings.fvd_weights, settings.fvd_clip_frames, device)),
        (Identity, (settings.face_models, device)),
        (Skeleton, (settings.pose_models, device)),
    ]
    measures: list[Measure] = []
    not_run: dict[str, str] = {}
    for kind, arguments in kinds:
        try:
            measures.append(kind(*arguments))
        except NotRun as reason:
            not_run |= dict.fromkeys(kind.columns, str(reason))
    return measures, not_run
