#!/usr/bin/env bash
# Finetune the released weights on your own clips.
#   DATA=animation_data bash scripts/command_finetune.sh, with any flag of train.py after it, such as --lora_rank=16.
# VALIDATION is a folder with reference.png and poses/, of which a video is made every 500 steps.
set -euo pipefail

export OUTPUT=${OUTPUT:-output/finetune}
exec bash "$(dirname "$0")/command_train.sh" --finetune_mode=True --num_train_epochs=600 "$@"
