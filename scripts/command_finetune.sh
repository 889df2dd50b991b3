#!/usr/bin/env bash
# Finetune the released weights on your own clips. Set the paths, then: bash scripts/command_finetune.sh, with any flag of
# train.py after it, such as --lora_rank=16 for one card of 24 GB.
set -euo pipefail
cd "$(dirname "$0")/.."

SVD=checkpoints/SVD/stable-video-diffusion-img2vid-xt
ANIMATION=checkpoints/Animation
DATA=animation_data
VALIDATION=inference/case-1
OUTPUT=output/finetune

CASE=()
if [ -f "$VALIDATION/reference.png" ]; then
  CASE=(--validation_image="$VALIDATION/reference.png" --validation_control_folder="$VALIDATION/poses")
fi

accelerate launch --quiet train.py \
  --finetune_mode=True \
  --pretrained_model_name_or_path="$SVD" \
  --posenet_model_finetune_path="$ANIMATION/pose_net.pth" \
  --face_encoder_finetune_path="$ANIMATION/face_encoder.pth" \
  --unet_model_finetune_path="$ANIMATION/unet.pth" \
  --output_dir="$OUTPUT" \
  --data_root_path="$DATA" \
  --rec_data_path="$DATA/video_rec_path.txt" \
  --vec_data_path="$DATA/video_vec_path.txt" \
  --num_workers=8 \
  --sample_n_frames=16 \
  --learning_rate=1e-5 \
  --per_gpu_batch_size=1 \
  --num_train_epochs=600 \
  --mixed_precision=fp16 \
  --gradient_accumulation_steps=1 \
  --checkpointing_steps=2000 \
  --checkpoints_total_limit=5 \
  --validation_steps=500 \
  --gradient_checkpointing \
  --resume_from_checkpoint=latest \
  ${CASE[@]+"${CASE[@]}"} \
  "$@"
