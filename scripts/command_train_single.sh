#!/usr/bin/env bash
# Train at one size, from Stable Video Diffusion.
#   CLIPS=animation_data/video_path.txt bash scripts/command_train_single.sh, with any flag of train.py after it.
set -euo pipefail

export CLIPS=${CLIPS:-animation_data/video_path.txt} OUTPUT=${OUTPUT:-output/train_single}
exec bash "$(dirname "$0")/command_train.sh" "$@"
