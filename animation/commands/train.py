"""Train StableAnimator's PoseNet, FaceEncoder and UNet on folders of clips.

    python train.py --data_root_path data --output_dir output/train
    python -m animation.launch train.py --data_root_path data --output_dir output/train

The same command works on a CPU, on many GPUs and on many machines: `accelerate config` says which. Writes
checkpoint-N/ with pose_net.pth, face_encoder.pth and unet.pth, which inference_basic.py reads, validation/ and
training_log.jsonl.
"""

from animation import cli
from animation.flags import parse
from animation.training.settings import TrainingSettings
from animation.weights.layout import fill_in


def main() -> None:
    """Parse, check, train."""
    cli.start_logging()
    settings = fill_in(parse(TrainingSettings, __doc__))
    if settings.check_data:
        print(settings.describe_data())
        return
    buckets = settings.read_inputs()  # bad input ends here, before torch is imported
    cli.quiet_libraries()
    from animation.training.loop import train

    train(settings, buckets)
