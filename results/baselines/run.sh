#!/usr/bin/env bash
# Baselines: every objective under the same conditions. From the project's root:
#
#   results/baselines/run.sh digits      300 digits, small CNN, 30 epochs, five seeds: every objective, in minutes
#   results/baselines/run.sh small       CIFAR-100, 10,000 images at 16 x 16 pixels, ResNet-20, 20 epochs: two CPU cores
#   results/baselines/run.sh gpu         CIFAR-100, all images, ResNet-18, 200 epochs, bf16: one GPU
#
# Each command continues where it was stopped, within a run from the last epoch's checkpoint, so that it may be cut
# into calls of any length: timeout 580 results/baselines/run.sh gpu. FIRST=5 runs the first five objectives alone, and
# MORE="introspective:control=uniform" others beside them.
# On the GPU, EPOCHS=30 trains for less long (in a folder of its own), SEEDS=0 makes the runs of one seed first, WORKERS says
# how many runs share it, and FAST="--cuda-graph" leaves out the compilation.
# data/cifar100 holds the Parquet files of uoft-cs/cifar100 (Hugging Face hub).
set -euo pipefail
out=results/baselines
python -m studies.archive unpack "$out" # what is finished is not done again
data=(--data parquet:data/cifar100)
# The five that matter most, then from the cheap to the dear; those with teachers train them themselves.
every=(standard label_smoothing introspective ps_kd cs_kd
  zipf ols tf_kd:teacher=virtual kd dkd tf_kd:teacher=self born_again byot dlb mixup+standard cutmix+standard
  confidence_penalty dml saliency_guided icasc icasc:separability=0.2,consistency=0.2 lsx)
objectives=("${every[@]}" cgc:min_area=0.5)
# shellcheck disable=SC2206 # MORE is words
objectives=("${objectives[@]:0:${FIRST:-99}}" ${MORE:-})

case "${1:?digits, small or gpu}" in
digits)
  selfexplain compare --data digits --train-size 300 --model small_cnn --epochs 30 --batch-size 32 \
    --seeds 0 1 2 3 4 --workers "${WORKERS:-2}" --objectives "${every[@]}" \
    cgc:mirror=false,min_area=0.5 --out "$out/digits"
  ;;
small)
  selfexplain compare "${data[@]}" --image-size 16 --train-size 10000 --model resnet20 --epochs 20 \
    --seeds 0 1 2 --workers "${WORKERS:-2}" --objectives "${objectives[@]}" --out "$out/small"
  ;;
gpu)
  # shellcheck disable=SC2086 # FAST and SEEDS are words
  selfexplain compare "${data[@]}" --model resnet18 --epochs "${EPOCHS:-200}" --precision bf16 \
    ${FAST:---cuda-graph --compile} --seeds ${SEEDS:-0 1 2} --workers "${WORKERS:-3}" \
    --objectives "${objectives[@]}" --out "$out/gpu-${EPOCHS:-200}"
  ;;
*)
  echo "$0: there is no experiment $1; pass digits, small or gpu" >&2
  exit 2
  ;;
esac
python -m studies.archive pack "$out"
