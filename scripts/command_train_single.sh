#!/usr/bin/env bash
# Train at one size, from Stable Video Diffusion.
#   CLIPS=animation_data/video_path.txt bash scripts/command_train_single.sh, with any flag of train.py after it.
set -euo pipefail
cd "$(dirname "$0")/.."

CLIPS=${CLIPS:-animation_data/video_path.txt}
OUTPUT=${OUTPUT:-output/train_single}

python -m animation.launch train.py \
  --output_dir="$OUTPUT" \
  --data_path="$CLIPS" \
  --dataset_width=512 \
  --dataset_height=512 \
  --num_workers=8 \
  --lr_warmup_steps=500 \
  --sample_n_frames=16 \
  --learning_rate=1e-5 \
  --per_gpu_batch_size=1 \
  --num_train_epochs=6000 \
  --mixed_precision=fp16 \
  --gradient_accumulation_steps=1 \
  --checkpointing_steps=2000 \
  --checkpoints_total_limit=5 \
  --validation_steps=500 \
  --gradient_checkpointing \
  --resume_from_checkpoint=latest \
  "$@"
