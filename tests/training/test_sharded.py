"""Training with weights that are spread over processes (FSDP) gives what it gives where each has them all (DDP)."""

import os
import sys

import pytest
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from animation import cli
from animation.commands import train
from animation.pipeline import AnimationPipeline
from tests.conftest import relative_error
from tests.processes import posix, together
from tests.synthetic import SVD_FOLDER
from tests.training.runs import arguments, log, relative_difference, weights

SHARDING = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "BasicTransformerBlock,TemporalBlock,SpatioTemporalResBlock",
}


def distance(found, expected):
    """|found − expected| / |expected| over all weights."""
    flat, other = (torch.cat([state[name].flatten() for name in expected]) for state in (found, expected))
    return relative_error(flat, other)


def run(folder, run_flags, sharded):
    """Train in two processes."""

    def work(rank):
        if sharded:  # which accelerate does on GPUs alone: these are taken for some
            PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
            PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
            os.environ.update(SHARDING)
        sys.argv = ["train.py", *arguments(run_flags)]
        cli.run(train.main)

    together(folder, 2, work)


@posix
@pytest.mark.slow
@pytest.mark.long
def test_sharded_training_is_that_of_whole_replicas(flags, tmp_path):
    whole = flags | {"--learning_rate": 3e-4, "--max_train_steps": 2}
    run(tmp_path, whole, sharded=False)
    del (sharded := whole | {"--output_dir": tmp_path / "sharded"})["--cpu"]
    for steps in (1, 2):  # the second run goes on from the first one's shards
        run(tmp_path, sharded | {"--max_train_steps": steps, "--resume_from_checkpoint": "latest"}, sharded=True)
    assert relative_difference(log(sharded), log(whole)) < 1e-4
    assert relative_difference(log(sharded, "grad_norm"), log(whole, "grad_norm")) < 1e-4
    folder = tmp_path / "sharded" / "checkpoint-2"
    assert (folder / "training_state" / "shards" / "optimizer_0" / "__1_0.distcp").is_file()
    found, expected = weights(folder), weights(whole["--output_dir"] / "checkpoint-2")
    earlier = weights(tmp_path / "sharded" / "checkpoint-1")
    assert found.keys() == expected.keys()
    assert distance(found, expected) < 1e-4
    assert distance(found, earlier) > 1e-3  # a control
    AnimationPipeline.from_checkpoints(
        svd_folder=flags["--pretrained_model_name_or_path"] / SVD_FOLDER,
        **{f"{part}_path": folder / f"{part}.pth" for part in ("unet", "pose_net", "face_encoder")},
    )
