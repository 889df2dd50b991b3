#!/usr/bin/env bash
# Animate one photo with the movement of one video. Set the paths, then: bash command_basic_infer.sh
set -euo pipefail
cd "$(dirname "$0")"

PHOTO=inference/case-2/reference.png
DRIVER=inference/driver.mp4
FPS=12
OUTPUT=output/basic
CHECKPOINTS=checkpoints
FACE_MODELS=models/antelopev2
SVD=$CHECKPOINTS/SVD/stable-video-diffusion-img2vid-xt
WIDTH=576
HEIGHT=1024
CANVAS=2160
GUIDANCE=3.0
STEPS=25

if [ ! -f "$CHECKPOINTS/Animation/unet.pth" ] && [ ! -f "$CHECKPOINTS/Animation/unet.safetensors" ]; then
  echo "No weights in $CHECKPOINTS/Animation: the small networks in checkpoints/tiny are used, which know drawn figures"
  echo "alone, at 128×128 pixels. The README says where the released weights are."
  CHECKPOINTS=checkpoints/tiny
  FACE_MODELS=models/tiny/antelopev2
  SVD=$CHECKPOINTS/SVD
  WIDTH=128
  HEIGHT=128
  CANVAS=384
  GUIDANCE=1.0
  STEPS=6
fi

python skeleton_extraction.py \
  --target_video="$DRIVER" \
  --ref_image_path="$PHOTO" \
  --poses_folder_path="$OUTPUT/poses" \
  --detector_path="$CHECKPOINTS/DWPose/yolox_l.onnx" \
  --pose_path="$CHECKPOINTS/DWPose/dw-ll_ucoco_384.onnx" \
  --size="${WIDTH}x$HEIGHT" \
  --canvas="$CANVAS" \
  --preview="$OUTPUT/skeletons.mp4"

python inference_basic.py \
  --pretrained_model_name_or_path="$SVD" \
  --unet_model_name_or_path="$CHECKPOINTS/Animation/unet.pth" \
  --posenet_model_name_or_path="$CHECKPOINTS/Animation/pose_net.pth" \
  --face_encoder_model_name_or_path="$CHECKPOINTS/Animation/face_encoder.pth" \
  --face_models="$FACE_MODELS" \
  --dwpose_models="$CHECKPOINTS/DWPose" \
  --validation_image="$PHOTO" \
  --validation_control_folder="$OUTPUT/poses" \
  --output_dir="$OUTPUT" \
  --width="$WIDTH" \
  --height="$HEIGHT" \
  --num_inference_steps="$STEPS" \
  --guidance_scale="$GUIDANCE" \
  --noise_aug_strength=0.02 \
  --tile_size=16 \
  --frames_overlap=4 \
  --decode_chunk_size=4 \
  --fps="$FPS"
