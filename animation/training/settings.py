"""The settings of a training run, declared once as flags. Imports no torch, so that bad input is answered at once.

`affects=NOTHING` marks a setting that the trained weights do not depend on. A run that is resumed with another value of
any other setting is not as one that never stopped, and says so.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from PIL import Image

from animation.errors import InputError
from animation.face.detection import find_face_models
from animation.flags import NOTHING, Settings, flag
from animation.media.images import FrameFolder, list_frames, load_photo
from animation.media.writing import check_writable
from animation.settings import CHANNEL_ORDERS, SEED
from animation.training.check import check_data, check_share
from animation.training.clips import RELEASED_BUCKETS, Bucket, parse_bucket, read_buckets

OPTIMIZERS = ("adamw", "muon")
LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
TRACKERS = ("tensorboard", "wandb", "comet_ml")  # each is a package's name too
RESAMPLINGS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
LARGEST_SEED = 2**32 - 1
OFFLINE = "nothing here contacts the web; upload the checkpoint folder yourself"
NO_TEXT = "there is no text; give --validation_image and --validation_control_folder"
NO_AUGMENTATION = "frames are resized to their bucket's size, never cropped or flipped; prepare other frames"


def checkpoint_folders(output_dir: Path) -> list[Path]:
    """The whole checkpoints of an output folder, by ascending step."""
    folders = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix("checkpoint-")))


@dataclass
class ValidationCase:
    """What the validation videos are made of: the photo, the skeletons, and the true frames, or None."""

    photo: Image.Image
    poses: FrameFolder
    truth: FrameFolder | None


@dataclass(kw_only=True)
class StartingWeights(Settings):
    """What training starts from; a None is filled in by `animation.weights.layout.fill_in`."""

    TITLE: ClassVar = "weights (left out: the released ones where they are, else the small ones that come along)"

    pretrained_model_name_or_path: str | None = flag(
        None,
        "Stable Video Diffusion's diffusers folder, or a hub name that is already in the cache; where its unet/ holds "
        "only config.json, the UNet starts from random weights",
        metavar="DIR",
        affects=NOTHING,
    )
    revision: str | None = flag(None, "revision of a hub name; means nothing for a folder", affects=NOTHING)
    finetune_mode: bool = flag(False, "start from the three files below instead of from Stable Video Diffusion")
    posenet_model_finetune_path: str | None = flag(None, "weights of pose_net", metavar="FILE", affects=NOTHING)
    face_encoder_finetune_path: str | None = flag(None, "weights of face_encoder", metavar="FILE", affects=NOTHING)
    unet_model_finetune_path: str | None = flag(None, "weights of unet", metavar="FILE", affects=NOTHING)
    trainable: str = flag(
        "method", "method: PoseNet, FaceEncoder and the UNet's attention; all: every part", choices=("method", "all")
    )
    lora_rank: int = flag(
        0, "train only adapters of this rank on the attention layers, merged when saved; 0: none", least=0, metavar="R"
    )
    lora_alpha: float | None = flag(None, "adapters' output is scaled by alpha/rank; left out, by 1", above=0)
    face_models: str | None = flag(None, "insightface's antelopev2", metavar="DIR", affects=NOTHING)
    face_channel_order: str | None = flag(
        None,
        "what the face model is handed, stored with the checkpoint: left out, bgr, which is right for it; when "
        "finetuning what that checkpoint says, else rgb, which the released weights were trained with",
        choices=CHANNEL_ORDERS,
    )

    def check(self) -> None:
        """Raise InputError for adapters without a finished checkpoint, or beside a training of every part."""
        super().check()
        if self.lora_rank and not self.finetune_mode:
            raise InputError("--lora_rank trains nothing but adapters of a finished checkpoint; add --finetune_mode")
        if self.lora_rank and self.trainable == "all":
            raise InputError("--lora_rank trains adapters alone, --trainable all every part; leave one of them out")


@dataclass(kw_only=True)
class TrainingData(Settings):
    """Which clips are read, and how."""

    TITLE: ClassVar = "data: folders with images/, poses/ and faces/, named by text files"

    data_root_path: str | None = flag(
        None, "where listed folders are looked for; alone: its rec/ and vec/ are read", metavar="DIR", affects=NOTHING
    )
    rec_data_path: str | None = flag(None, "clips trained at 512×512", metavar="LIST", affects=NOTHING)
    vec_data_path: str | None = flag(None, "clips trained at 576 wide × 1024 high", metavar="LIST", affects=NOTHING)
    data_path: str | None = flag(None, "clips trained at the size below", metavar="LIST", affects=NOTHING)
    dataset_width: int = flag(512, "pixels, a multiple of 64")
    dataset_height: int = flag(512, "pixels, a multiple of 64")
    bucket: list[str] = flag([], "clips trained at other sizes, several", metavar="WxH:LIST", affects=NOTHING)
    sample_n_frames: int = flag(16, "frames of a sample", least=1)
    sample_stride: int = flag(4, "clip frames from one to the next; less where clips are short", least=1)
    resample: str = flag("bicubic", "how frames, skeletons and masks are resized", choices=RESAMPLINGS)
    num_workers: int = flag(8, "processes that read, for each process that trains", least=0, affects=NOTHING)
    max_bad_clips: float = flag(0.05, "share of clips that may be unusable", least=0, most=1, affects=NOTHING)
    check_data: bool = flag(False, "only read all the data and say what it lacks", affects=NOTHING)
    cache_dir: str | None = flag(
        None, "keeps face embeddings and latents; left out, cache/ in the output folder", metavar="DIR", affects=NOTHING
    )

    def read_data(self) -> list[Bucket]:
        """The clips by size. Raises InputError where a list cannot be read or too many of its folders are missing."""
        lists = [
            (*RELEASED_BUCKETS["rec"], self.rec_data_path),
            (*RELEASED_BUCKETS["vec"], self.vec_data_path),
            (self.dataset_width, self.dataset_height, self.data_path),
            *map(parse_bucket, self.bucket),
        ]
        buckets = read_buckets([entry for entry in lists if entry[-1] is not None], self.data_root_path)
        clips = [clip for bucket in buckets for clip in bucket.clips]
        missing = {str(clip): "no such folder" for clip in clips if not clip.is_dir()}
        check_share(missing, len(clips), self.max_bad_clips)
        return buckets

    def describe_data(self) -> str:
        """What reading all the data finds. Raises InputError where too many clips cannot be used."""
        self.check()
        return check_data(self.read_data(), self.sample_n_frames, self.max_bad_clips, self.num_workers)


@dataclass(kw_only=True)
class Optimization(Settings):
    """How the weights are changed, and how often."""

    TITLE: ClassVar = "training"

    per_gpu_batch_size: int = flag(1, "samples at once in each process", least=1, affects=NOTHING)
    gradient_accumulation_steps: int = flag(1, "such batches for one optimizer step", least=1, affects=NOTHING)
    num_train_epochs: int = flag(100, "passes through the data, if no --max_train_steps", least=1, affects=NOTHING)
    max_train_steps: int | None = flag(None, "optimizer steps in all", least=1, affects=NOTHING)
    optimizer: str = flag(
        "adamw", "muon: fewer steps to the same loss where much is to be learned (docs/training.md)", choices=OPTIMIZERS
    )
    learning_rate: float = flag(1e-5, "the highest", least=0)
    scale_lr: bool = flag(False, "multiply the learning rate by the samples of an optimizer step")
    lr_scheduler: str = flag("constant", "how the learning rate goes", choices=LR_SCHEDULES)
    lr_warmup_steps: int = flag(500, "steps of growing rate; constant has none", least=0)
    adam_beta1: float = flag(0.9, "first moment's decay", least=0, below=1)
    adam_beta2: float = flag(0.999, "second moment's decay", least=0, below=1)
    adam_weight_decay: float = flag(0.01, "decoupled decay", least=0)
    adam_epsilon: float = flag(1e-8, "added to the denominator", least=0)
    max_grad_norm: float = flag(0.0, "gradients are scaled down to this norm; 0: never", least=0)
    use_ema: bool = flag(False, "average the weights over the steps; checkpoints and videos take the average")
    conditioning_dropout_prob: float = flag(
        0.1, "share of image tokens and of image latents that are dropped, for guidance", least=0, most=1 / 3
    )
    face_loss_weight: float = flag(1.0, "errors in the face's mask count 1 + this, others 1", least=0)
    temporal_loss_weight: float = flag(0.0, "how much errors of the change from frame to frame count", least=0)
    noise_d_low: int = flag(32, "of high noise levels: smaller trains them more often", least=1, metavar="D")
    noise_d_high: int = flag(64, "of low noise levels", least=1, metavar="D")
    seed: int = flag(SEED, "the same seed gives the same training", least=0, most=LARGEST_SEED)
    overfit: bool = flag(False, "repeat the first step's clips and noise, to see whether a set-up can learn")


@dataclass(kw_only=True)
class TrainingLevers(Settings):
    """What trades time, or the last digits, for memory."""

    TITLE: ClassVar = "speed and memory (docs/training.md says what each costs)"

    mixed_precision: str | None = flag(None, "left out, as accelerate's config says", choices=("no", "fp16", "bf16"))
    gradient_checkpointing: bool = flag(False, "compute activations again in the backward pass", affects=NOTHING)
    use_8bit_adam: bool = flag(False, "optimizer states in 8 bits; needs bitsandbytes")
    cache_latents: bool = flag(False, "keep the VAE's posterior of each frame on disk", affects=NOTHING)
    allow_tf32: bool = flag(False, "faster float32 products on Ampere GPUs and later, less exact")
    cpu: bool = flag(False, "train on the CPU though there is a GPU", affects=NOTHING)


@dataclass(kw_only=True)
class TrainingOutputs(Settings):
    """What a training writes."""

    TITLE: ClassVar = "checkpoints, validation and logs"

    checkpointing_steps: int = flag(2000, "steps from one checkpoint to the next", least=1, affects=NOTHING)
    checkpoints_total_limit: int | None = flag(None, "keep the last N; left out, all", least=1, affects=NOTHING)
    resume_from_checkpoint: str | None = flag(None, "a checkpoint folder, or latest", metavar="NAME", affects=NOTHING)
    validation_steps: int = flag(500, "steps from one validation video to the next", least=1, affects=NOTHING)
    validation_image: str | None = flag(
        None, "photo; left out, the first of --validation_image_folder, if given", metavar="FILE", affects=NOTHING
    )
    validation_control_folder: str | None = flag(
        None, "its skeletons; left out, poses/ beside --validation_image_folder", metavar="DIR", affects=NOTHING
    )
    validation_image_folder: str | None = flag(None, "the true frames, for the metrics", metavar="DIR", affects=NOTHING)
    validation_inference_steps: int = flag(25, "denoising steps of the validation video", least=1, affects=NOTHING)
    validation_guidance_scale: float = flag(3.0, "its guidance", affects=NOTHING)
    report_to: str = flag("tensorboard", "where the curves go", choices=("none", "all", *TRACKERS), affects=NOTHING)
    logging_dir: str = flag("logs", "for the tracker, in the output folder", metavar="DIR", affects=NOTHING)

    def read_validation(self) -> ValidationCase | None:
        """The validation case, None where none is asked for. Raises InputError where it is incomplete or unreadable."""
        photo, poses, frames = self.validation_image, self.validation_control_folder, self.validation_image_folder
        if photo is None and poses is None and frames is None:
            return None
        if frames is not None:
            photo = photo or str(list_frames(frames)[0])
            beside = Path(frames).absolute().parent / "poses"
            poses = poses or (str(beside) if beside.is_dir() else None)
        if photo is None or poses is None:
            missing = "--validation_control_folder" if poses is None else "--validation_image"
            raise InputError(f"a validation video needs a photo and skeletons; give {missing} too, or neither")
        truth = FrameFolder(frames) if frames is not None else None
        return ValidationCase(load_photo(photo), FrameFolder(poses), truth)


@dataclass(kw_only=True)
class TrainingSettings(StartingWeights, TrainingData, Optimization, TrainingLevers, TrainingOutputs):
    """A training's settings, named as the flags of `train.py`, whose help explains them."""

    RETIRED: ClassVar = {
        "enable_xformers_memory_efficient_attention": "torch's own attention kernels are used",
        "push_to_hub": OFFLINE,
        "hub_token": OFFLINE,
        "hub_model_id": OFFLINE,
        "non_ema_revision": "only local files are read",
        "local_rank": "accelerate tells each process its rank",
        "num_validation_images": "one video is made of the validation case",
        "log_trainable_parameters": "their number stands in the log",
        "use_safetensors": "weights are read from both kinds of files, and written to both",
        "set_grads_to_none": "gradients are freed after every step",
        "tracker_project_name": "the tracker's project is named training",
    }
    REFUSED: ClassVar = {
        "pretrain_unet": "give --finetune_mode and --unet_model_finetune_path",
        "controlnet_model_name_or_path": "give --finetune_mode and --posenet_model_finetune_path",
        "rank": "give --lora_rank, with --finetune_mode",
        "base_folder": "give --data_root_path, or --data_path with a list of clip folders",
        "train_data_dir": "give --data_root_path, or --data_path with a list of clip folders",
        "dataset_name": "only local clips are read; give --data_root_path, or --data_path with a list of clip folders",
        "num_frames": "give --sample_n_frames",
        "width": "give --dataset_width, with --data_path",
        "height": "give --dataset_height, with --data_path",
        "resolution": "give --dataset_width and --dataset_height, with --data_path",
        "crop_size": NO_AUGMENTATION,
        "center_crop": NO_AUGMENTATION,
        "random_flip": NO_AUGMENTATION,
        "train_batch_size": "give --per_gpu_batch_size",
        "dataloader_num_workers": "give --num_workers",
        "validation_prompt": NO_TEXT,
        "validation_epochs": "give --validation_steps",
        "lr_num_cycles": "--lr_scheduler cosine_with_restarts has one cycle",
        "lr_power": "--lr_scheduler polynomial has the power 1",
        "snr_gamma": "the loss has the weights of Stable Video Diffusion's preconditioning",
        "noise_offset": "noise levels are ruled by --noise_d_low and --noise_d_high",
    }

    output_dir: str = flag(help="where the results go; made where missing", metavar="DIR", affects=NOTHING)

    def read_inputs(self) -> list[Bucket]:
        """Check everything that can be checked without loading a model; return the clips by size.

        Raises:
            InputError: a setting is out of range, data or a package is missing, or the output is not writable.
        """
        self.check()
        if self.use_8bit_adam and self.optimizer != "adamw":
            raise InputError(f"--use_8bit_adam is of adamw, not of {self.optimizer}; leave one of them out")
        if self.temporal_loss_weight and self.sample_n_frames < 2:
            weight = f"--temporal_loss_weight {self.temporal_loss_weight:g}"
            raise InputError(f"{weight} compares neighbours, and there is 1 frame; give --sample_n_frames 2 or more")
        packages = [
            (self.report_to in TRACKERS, f"--report_to {self.report_to}", self.report_to, "or use --report_to none"),
            (self.use_8bit_adam, "--use_8bit_adam", "bitsandbytes", "(requirements-gpu.txt) or leave the flag out"),
            (self.lora_rank, "--lora_rank", "peft", "(requirements.txt)"),
        ]
        for needed, name, package, remedy in packages:
            if needed and find_spec(package) is None:
                raise InputError(f"{name}: the package {package} is not installed; install it {remedy}")
        buckets = self.read_data()
        find_face_models(self.face_models)
        self.read_validation()
        output_dir = Path(self.output_dir)
        for folder in (output_dir, output_dir / self.logging_dir, *([Path(self.cache_dir)] if self.cache_dir else [])):
            check_writable(folder)
        earlier = checkpoint_folders(output_dir)
        if earlier and self.resume_from_checkpoint is None:
            raise InputError(
                f"{output_dir}: holds {earlier[-1].name} of an earlier run, which this one would mix with; add "
                "--resume_from_checkpoint latest, or give another --output_dir"
            )
        return buckets
