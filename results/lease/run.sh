#!/usr/bin/env bash
# The experiments behind docs/methods/lease.md. From the project's root:
#
#   results/lease/run.sh accuracy   how far differences can be trusted as hypergradients
#   results/lease/run.sh select     the architecture's learning rate, then lambda, gamma and eps, by the search's
#                                   own validation accuracy
#   results/lease/run.sh tiny       every method, gradient path and control, twenty seeds, in tiny201's table
#   results/lease/run.sh test       every method and control, five fresh seeds, small size
#   results/lease/run.sh published  the published cells against those of their bases and random ones, retrained
#   results/lease/run.sh photographs  a search on photographs end to end: search, retraining, report
#   results/lease/run.sh table      look everything up and write the tables
#   results/lease/run.sh gpu        full size: 16 channels, N = 5, 50 epochs, on one GPU
#
# data/cifar100 holds the Parquet files of uoft-cs/cifar100 (Hugging Face hub), data/imagenette128 those of
# Imagenette at 128 pixels, data/nasbench201.parquet the table of NAS-Bench-201 (columns: see
# selfexplain.spaces.table). A search that is finished is not made again; JOBS searches run side by side.
set -euo pipefail
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
jobs="${JOBS:-2}"
out=results/lease
python -m studies.archive unpack "$out" # what is finished is not done again
space=(--data parquet:data/cifar100 --space nasbench201)
size16=("${space[@]}" --image-size 16 --train-size 3072 --init-channels 8 --cells 1 --epochs 8)
# By the entropy of the weights, not by accuracy: at the smaller rates they stay next to uniform.
small=("${size16[@]}" --architecture-lr 0.05)
gpu=("${space[@]}" --init-channels 16 --cells 5 --epochs 50 --audience resnet18)
chosen=(--lambda 1 --gamma 1) # by select
methods=(
  "darts1 --method darts1"
  "darts2 --method darts2 --mode inner_product"
  "sanas --method sanas"
  "lease --method lease ${chosen[*]}"
  "lease-shuffled --method lease ${chosen[*]} --control shuffled_delta"
  "lease-saliency --method lease ${chosen[*]} --control saliency"
  "random-search --method random_search"
  "random --method random"
)
# LeaSE and SANAS compute exact inner products by default; so does darts2 here.
# The architecture reaches the audience through the explanation alone, so these walk the very path of
# darts2 (a test holds them to it bit for bit); one seed each shows it.
same_as_darts2=(
  "lease-no-explanation --method lease --gradient-path no_explanation"
  "lease-explainer-only --method lease --gradient-path explainer_only"
  "lease-random-delta --method lease --control random_delta"
)

search() { # folder, name, options...
  local folder="$1" name="$2"
  shift 2
  mkdir -p "$folder"
  selfexplain search "$@" --out "$folder/$name" --resume >"$folder/$name.log" 2>&1 ||
    { cat "$folder/$name.log" >&2; return 1; }
}
side_by_side() { # waits until a place is free, then runs in the background
  while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
  search "$@" &
}
finish() { while [ "$(jobs -rp | wc -l)" -gt 0 ]; do wait -n; done; }

case "${1:?accuracy, select, tiny, test, published, photographs, table or gpu}" in
accuracy)
  for size in "nasbench201 8 1" "darts 8 5"; do
    read -r name channels cells <<<"$size"
    python -m studies.hypergradient_study --data parquet:data/cifar100 --image-size 16 \
      --train-size 4096 --space "$name" --init-channels "$channels" --cells "$cells" \
      --batch-size 32 --steps 0 30 --out "$out/accuracy/$name-$channels-$cells.json"
  done
  ;;
select)
  for seed in 100 101; do
    for rate in 0.005 0.02 0.05; do
      side_by_side "$out/select" "darts2--architecture-lr$rate-seed$seed" "${size16[@]}" \
        --method darts2 --mode inner_product --architecture-lr "$rate" --seed "$seed"
    done
  done
  for seed in 100 101; do # the default, and a step up and down from it in each number
    for options in "" "--gamma 3" "--lambda 3" "--gamma 0.3" "--lambda 0.3" "--eps 0.0157" "--eps 0.0627"; do
      name="lease$(tr -d ' ' <<<"$options")-seed$seed"
      # shellcheck disable=SC2086 # options are words
      side_by_side "$out/select" "$name" "${small[@]}" --method lease $options --seed "$seed"
    done
  done
  finish
  ;;
tiny)
  # Five seeds at a time, so that what is there when it is stopped has its table and its tests.
  for seeds in 5 10 15 20; do
    # shellcheck disable=SC2046 # seeds are words
    selfexplain nas-study --space tiny201 --table tiny201 --data parquet:data/cifar100 --image-size 16 \
      --validation 0.05 --train-size 2048 --batch-size 32 --init-channels 4 --cells 1 --budget 8 --architecture-lr 0.05 \
      --seeds $(seq -s " " 0 $((seeds - 1))) --workers "$jobs" --out "$out/tiny" \
      --methods darts2:mode=inner_product darts1 sanas lease lease:coupling=normalised,share=1 \
      lease:mode=finite_difference lease:shown=soft_mask lease:control=shuffled_delta lease:control=saliency \
      lease:validation_labels=shuffled darts1:base=drnas darts1:base=beta_darts darts1:select=perturbation \
      random_search random_best random all_conv3x3
  done
  ;;
test | gpu)
  if [ "$1" = test ]; then size=("${small[@]}") last=4; else size=("${gpu[@]}") last=2; fi
  for seed in $(seq 0 "$last"); do
    for method in "${methods[@]}"; do
      read -r name options <<<"$method"
      given=("${size[@]}")
      [ "$name" != random ] || given=("${space[@]}")
      # A control that draws in every step cannot be captured.
      if [[ "$1" = gpu && "$name" != random* && "$options" != *_delta* ]]; then given+=(--cuda-graph); fi
      # shellcheck disable=SC2086
      side_by_side "$out/$1" "$name-seed$seed" "${given[@]}" $options --seed "$seed"
    done
  done
  for method in "${same_as_darts2[@]}"; do
    read -r name options <<<"$method"
    # shellcheck disable=SC2086
    side_by_side "$out/$1" "$name-seed0" "${size[@]}" $options --seed 0
  done
  finish
  ;;
published)
  python -m studies.published_cells --data parquet:data/cifar100 --image-size 16 --train-size 5000 \
    --init-channels 8 --cells 8 --epochs 6 --batch-size 64 --workers "$jobs" --out "$out/published"
  ;;
photographs)
  selfexplain nas-study --data parquet:data/imagenette128 --space pcdarts --form imagenet \
    --methods darts2:mode=inner_product lease random --seeds 0 --budget 3 --warmup-epochs 0 --train-size 640 \
    --validation 0.1 --batch-size 32 --init-channels 8 --cells 5 --architecture-lr 0.05 \
    --retrain 8 --retrain-batch-size 32 --retrain-channels 8 --retrain-cells 8 --workers "$jobs" --out "$out/photographs"
  ;;
table)
  for folder in test gpu; do
    [ ! -d "$out/$folder" ] || python -m studies.search_table --runs "$out/$folder" \
      --table data/nasbench201.parquet --out "$out/$folder.md"
  done
  ;;
*)
  echo "$0: there is no experiment $1; pass accuracy, select, tiny, test, published, photographs, table or gpu" >&2
  exit 2
  ;;
esac
python -m studies.archive pack "$out"
