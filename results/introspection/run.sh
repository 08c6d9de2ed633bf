#!/usr/bin/env bash
# The experiments behind docs/methods/introspective.md. From the project's root:
#
#   results/introspection/run.sh select   choose options on held-out training images
#   results/introspection/run.sh test     the chosen options and their controls, on test images, once
#   results/introspection/run.sh know     which explanations know which classes are alike, and when
#   results/introspection/run.sh gpu      CIFAR-100, ResNet-18, 200 epochs, on one GPU
#
# data/ holds the Parquet files of two data sets of the Hugging Face hub: data/fashion_mnist those of
# zalandoresearch/fashion_mnist, data/cifar100 those of uoft-cs/cifar100. Each command continues where it
# was stopped.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
out=results/introspection
python -m studies.archive unpack "$out" # what is finished is not done again
fashion=(--data parquet:data/fashion_mnist --model small_cnn --train-size 2000 --epochs 30)
cifar=(--data parquet:data/cifar100 --model small_cnn --epochs 30)
smoothing=(label_smoothing:smoothing=0.05 label_smoothing:smoothing=0.1)
candidates=(introspective:weight=0.1 introspective:weight=0.3 introspective:weight=0.5)
# Asked on CIFAR-100 alone: the running mean of each class, and the head's weights without any image.
more=(introspective:weight=0.3,aggregation=class introspective:weight=0.5,aggregation=class
  introspective:weight=0.3,control=weights)

case "${1:?select, test, know or gpu}" in
select)
  selfexplain compare "${fashion[@]}" --validation 0.1 --seeds 0 1 2 \
    --objectives standard "${smoothing[@]}" "${candidates[@]}" --out "$out/select-fashion"
  selfexplain compare "${cifar[@]}" --train-size 5000 --validation 0.1 --seeds 0 1 \
    --objectives standard "${smoothing[@]}" "${candidates[@]}" "${more[@]}" \
    --out "$out/select-cifar100"
  ;;
test)
  # Label smoothing with the amount that did better in the selection; seeds that it did not use.
  objectives=(standard label_smoothing:smoothing=0.05 introspective introspective:control=permuted
    introspective:control=uniform introspective:control=weights introspective:control=logits)
  selfexplain compare "${fashion[@]}" --seeds 10 11 12 --objectives "${objectives[@]}" \
    --out "$out/test-fashion"
  selfexplain compare "${cifar[@]}" --train-size 5000 --seeds 10 11 12 \
    --objectives "${objectives[@]}" --out "$out/test-cifar100"
  ;;
know)
  python -m studies.similarity_study "${cifar[@]}" --train-size 5000 --validation 0.1 \
    --group-column coarse_label --out "$out/know-cifar100"
  ;;
gpu)
  selfexplain compare --data parquet:data/cifar100 --model resnet18 --epochs 200 --precision bf16 \
    --cuda-graph --seeds 0 1 2 --workers "${WORKERS:-3}" --out "$out/gpu-cifar100" \
    --objectives standard label_smoothing introspective introspective:control=permuted \
    introspective:control=uniform introspective:control=weights
  ;;
*)
  echo "$0: there is no experiment $1; pass select, test, know or gpu" >&2
  exit 2
  ;;
esac
python -m studies.archive pack "$out"
