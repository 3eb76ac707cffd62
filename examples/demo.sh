#!/usr/bin/env bash
# Train EfficientNetV2-B0 on handwritten digits, which exports it, too; evaluate it, and use it and
# its export; then name two photographs with a pretrained network and with its export.
#
#   bash examples/demo.sh runs/demo [options of keras-effnetv2 train, for example --epochs 20]
#
# `make demo` runs this in an environment of its own, with the extra [lite]. Takes about 3 minutes
# on two cores; nothing is downloaded. Expected: an accuracy of at least 97.5% on the 359 pictures
# held back, ten digits named twice, a palace and a daisy named twice with the same scores, and last
# a line with the accuracy and the path of the report. A run that is there is replaced.
set -euo pipefail

run=${1:?"usage: bash examples/demo.sh RUN_FOLDER [TRAIN_OPTION...]"}
shift
examples=$(dirname "$0")

step() { printf '\n--- %s\n' "$*"; }

step "1/5 train progressively, from 32 to 40 pixels; the run has an export for TensorFlow Serving"
rm -rf "$run-lite0"
mkdir -p "$run-lite0"
keras-effnetv2 export efficientnet-lite0 --output "$run-lite0" >"$run-lite0/export.txt" 2>&1 &
lite0=$! # for the last step, while the network is traced
keras-effnetv2 train --data digits --model efficientnetv2-b0 --output "$run" --overwrite \
    --weights none --epochs 9 --batch-size 64 --stages 2 --image-size 32:40 --crop-area 0.7:1 "$@"

step "2/5 evaluate on pictures it was not trained on"
python "$examples/write_digits.py" "$run/pictures" & # for the next steps, meanwhile
digits=$!
keras-effnetv2 evaluate "$run" --data digits --json | tee "$run/evaluation.json"
accuracy=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["accuracy"])' \
    "$run/evaluation.json")

step "3/5 predict from picture files, with the package"
wait $digits
keras-effnetv2 predict "$run" "$run"/pictures/*.png --top 1

step "4/5 predict from the export, with TensorFlow alone"
python "$examples/predict_saved_model.py" "$run/saved_model/1" "$run"/pictures/*.png

step "5/5 name two photographs with pretrained weights, and with their export"
wait $lite0 || { cat "$run-lite0/export.txt"; exit 1; }
cat "$run-lite0/export.txt"
python "$examples/name_photos.py" "$run-lite0/1"

printf '\ndone: accuracy %.4f on the validation pictures; report: %s/report.html\n' \
    "$accuracy" "$run"
