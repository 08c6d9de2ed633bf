#!/usr/bin/env bash
# Before LeaSE is tuned: is its premise true, and what does its gradient ask for? From the project's root:
#
#   results/premise/run.sh cells      do better cells explain better? 60 cells, each trained alone, 16 pixels, 20 classes
#   results/premise/run.sh gradient   the parts of the architecture's gradient along a search
#   results/premise/run.sh gpu        cells at full size: 16 channels, N = 5, 32 pixels
#
# Each continues where it was stopped. data/ holds cifar100 and nasbench201.parquet.
set -euo pipefail
out=results/premise
shared=(--table data/nasbench201.parquet --data parquet:data/cifar100)
case "${1:?cells, gradient or gpu}" in
cells)
  python -m studies.explain_better "${shared[@]}" --image-size 16 --label-column coarse_label --explain 2500 \
    --audience-epochs 6 --out "$out/cells"
  ;;
gradient)
  for seed in 0 1 2; do
    file="$out/gradient/seed$seed.json"
    [ -f "$file" ] || python -m studies.gradient_parts "${shared[@]}" --image-size 16 --train-size 3072 \
      --seed "$seed" --out "$file"
  done
  ;;
gpu)
  python -m studies.explain_better "${shared[@]}" --init-channels 16 --cells 5 --learn 20000 --explain 20000 \
    --held-out 5000 --test 10000 --epochs 30 --audience-epochs 30 --device cuda --out "$out/gpu"
  ;;
*)
  echo "$0: there is no experiment $1; pass cells, gradient or gpu" >&2
  exit 2
  ;;
esac
