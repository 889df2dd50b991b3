#!/usr/bin/env bash
# Animate one photo, drawing each frame's face towards the photo's. Set the paths, then: bash command_op_infer.sh
set -euo pipefail
cd "$(dirname "$0")"

SVD=checkpoints/SVD/stable-video-diffusion-img2vid-xt
ANIMATION=checkpoints/Animation
CASE=inference/case-1
OUTPUT=output/op
SIZE=(--width=576 --height=1024)
STEPS=25
LAST_REFINED=20
EXTRA=()
# Left out, both masks are found: the photo's by the face models, the poses' from keypoints.npz beside them.
[ -f "$CASE/reference_mask.png" ] && EXTRA+=(--validation_image_mask="$CASE/reference_mask.png")
[ -d "$CASE/faces" ] && EXTRA+=(--validation_control_mask_folder="$CASE/faces")

if [ ! -f "$ANIMATION/unet.pth" ]; then
  echo "No weights in $ANIMATION: running a small network of random weights instead, on a figure of lines."
  echo "It shows that everything works together. Its video is noise; the README says where the weights are."
  python -m tests.synthetic output/random
  SVD=output/random/checkpoints/SVD
  ANIMATION=output/random/checkpoints/Animation
  CASE=output/random/case
  SIZE=(--width=64 --height=128)
  STEPS=3
  LAST_REFINED=1
  EXTRA=(
    --face_embedding="$CASE/face_embedding.npy"
    --validation_image_mask="$CASE/reference_mask.png"
    --validation_control_mask_folder="$CASE/faces"
  )
fi

python inference_op.py \
  --pretrained_model_name_or_path="$SVD" \
  --unet_model_name_or_path="$ANIMATION/unet.pth" \
  --posenet_model_name_or_path="$ANIMATION/pose_net.pth" \
  --face_encoder_model_name_or_path="$ANIMATION/face_encoder.pth" \
  --face_embedding_extractor_weight_path="$ANIMATION/glintr100_torch.pth" \
  --validation_image="$CASE/reference.png" \
  --validation_control_folder="$CASE/poses" \
  --output_dir="$OUTPUT" \
  "${SIZE[@]}" \
  --num_inference_steps="$STEPS" \
  --guidance_scale=3.0 \
  --noise_aug_strength=0.02 \
  --tile_size=16 \
  --frames_overlap=4 \
  --decode_chunk_size=4 \
  --num_optimization_iter=3 \
  --start_refine_step=0 \
  --end_refine_step="$LAST_REFINED" \
  ${EXTRA[@]+"${EXTRA[@]}"}
