#!/usr/bin/env bash
# Train at one resolution, from Stable Video Diffusion. Set the paths, then: bash scripts/command_train_single.sh, with any flag
# of train.py after it.
set -euo pipefail
cd "$(dirname "$0")/.."

SVD=checkpoints/SVD/stable-video-diffusion-img2vid-xt
CLIPS=animation_data/video_path.txt
OUTPUT=output/train_single

accelerate launch --quiet train.py \
  --pretrained_model_name_or_path="$SVD" \
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
