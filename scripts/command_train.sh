#!/usr/bin/env bash
# Train from Stable Video Diffusion at 512×512 and 576×1024, as the released weights were.
#   DATA=animation_data bash scripts/command_train.sh, with any flag of train.py after it.
# CLIPS is a list of clips that are all trained on at 512×512, in place of DATA's two lists.
# VALIDATION is a folder with reference.png and poses/, of which a video is made every 500 steps.
# On several GPUs or machines, run `accelerate config` once: it is asked which.
set -euo pipefail
cd "$(dirname "$0")/.."

DATA=${DATA:-animation_data}
VALIDATION=${VALIDATION:-}
OUTPUT=${OUTPUT:-output/train}

CLIPS=${CLIPS:-}

CLIP_FLAGS=(--data_root_path="$DATA" --rec_data_path="$DATA/video_rec_path.txt" --vec_data_path="$DATA/video_vec_path.txt")
if [ -n "$CLIPS" ]; then
  CLIP_FLAGS=(--data_path="$CLIPS" --dataset_width=512 --dataset_height=512)
fi
CASE_FLAGS=()
if [ -n "$VALIDATION" ]; then
  CASE_FLAGS=(--validation_image="$VALIDATION/reference.png" --validation_control_folder="$VALIDATION/poses")
fi

python -m animation.launch train.py \
  --output_dir="$OUTPUT" \
  "${CLIP_FLAGS[@]}" \
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
  ${CASE_FLAGS[@]+"${CASE_FLAGS[@]}"} \
  "$@"
