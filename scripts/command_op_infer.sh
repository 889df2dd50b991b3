#!/usr/bin/env bash
# The same as command_basic_infer.sh with face optimisation: each frame's face is drawn towards the photo's.
#   PHOTO=me.jpg DRIVER=dance.mp4 bash scripts/command_op_infer.sh
set -euo pipefail

export SCRIPT=inference_op.py COMMAND=$0 OUTPUT=${OUTPUT:-output/op}
exec bash "$(dirname "$0")/../command_basic_infer.sh" \
  --num_optimization_iter=3 \
  --start_refine_step=0 \
  --end_refine_step=20 \
  "$@"
