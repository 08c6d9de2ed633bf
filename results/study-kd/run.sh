#!/usr/bin/env bash
# Which part of a teacher's output carries the gain of distillation? From the project's root:
#
#   results/study-kd/run.sh small    CIFAR-100, 10,000 images at 16 x 16 pixels, small CNN, 30 epochs, three seeds: two CPU cores
#   results/study-kd/run.sh gpu      CIFAR-100, all images, ResNet-18, 200 epochs, bf16: one GPU
#
# Each command continues where it was stopped. data/cifar100 holds the Parquet files of uoft-cs/cifar100
# (Hugging Face hub).
set -euo pipefail
out=results/study-kd
python -m studies.archive unpack "$out" # what is finished is not done again
data=(--data parquet:data/cifar100)

case "${1:?small or gpu}" in
small)
  selfexplain study-kd "${data[@]}" --image-size 16 --train-size 10000 --model small_cnn --epochs 30 \
    --seeds 0 1 2 --workers "${WORKERS:-2}" --out "$out/small"
  ;;
gpu)
  selfexplain study-kd "${data[@]}" --model resnet18 --epochs 200 --precision bf16 --seeds 0 1 2 \
    --workers "${WORKERS:-3}" --out "$out/gpu"
  ;;
*)
  echo "$0: there is no experiment $1; pass small or gpu" >&2
  exit 2
  ;;
esac
python -m studies.archive pack "$out"
