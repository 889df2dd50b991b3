#!/usr/bin/env bash
# Animate one photo with the movement of one video:
#   bash command_basic_infer.sh
#   PHOTO=me.jpg DRIVER=dance.mp4 bash command_basic_infer.sh
# With the released weights in checkpoints/ these are used, else the small ones that come along.
set -euo pipefail
cd "$(dirname "$0")"

if [ -z "${PHOTO:-}" ] || [ -z "${DRIVER:-}" ]; then
  for weights in checkpoints/Animation/unet.pth checkpoints/Animation/unet.safetensors; do
    if [ -f "$weights" ]; then
      echo "error: the released weights are for photos of people; give yours: PHOTO=me.jpg DRIVER=dance.mp4 bash ${COMMAND:-$0}" >&2
      exit 2
    fi
  done
fi
PHOTO=${PHOTO:-inference/case-2/reference.png}
DRIVER=${DRIVER:-inference/driver.mp4}
FPS=${FPS:-12}
OUTPUT=${OUTPUT:-output/basic}

python skeleton_extraction.py \
  --target_video="$DRIVER" \
  --ref_image_path="$PHOTO" \
  --poses_folder_path="$OUTPUT/poses" \
  --widen_boxes \
  --outliers=drop \
  --preview="$OUTPUT/skeletons.mp4"

python "${SCRIPT:-inference_basic.py}" \
  --validation_image="$PHOTO" \
  --validation_control_folder="$OUTPUT/poses" \
  --output_dir="$OUTPUT" \
  --noise_aug_strength=0.02 \
  --tile_size=16 \
  --frames_overlap=4 \
  --decode_chunk_size=4 \
  --fps="$FPS" \
  "$@"
