#!/usr/bin/env bash
# Are the maps of networks trained by explanation better? From the project's root:
#
#   results/explanation-quality/run.sh
#
# Fashion-MNIST, 2,000 training images, small CNN, 10 epochs, three seeds; maps of 100 test images. data/fashion_mnist
# holds the Parquet files of zalandoresearch/fashion_mnist (Hugging Face hub). What is finished is not done again.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
out=results/explanation-quality
python -m studies.archive unpack "$out" # what is finished is not done again
objectives=(standard introspective)

for seed in 0 1 2; do
  runs=()
  for objective in "${objectives[@]}"; do
    run="$out/runs/$objective-seed$seed"
    runs+=("$run")
    selfexplain train --data parquet:data/fashion_mnist --model small_cnn --train-size 2000 --epochs 10 \
      --objective "$objective" --seed "$seed" --resume --out "$run"
  done
  [ -e "$out/seed$seed.json" ] || selfexplain explain --run "${runs[@]}" --evaluate \
    --kind cam gradient --count 100 --steps 16 --samples 25 --accelerator cpu --out "$out/seed$seed.json"
done
python "$out/summarise.py"
python -m studies.archive pack "$out"
