#!/usr/bin/env bash
# Which self-made target beats label smoothing and PS-KD, and does similarity add to it? From the project's root:
#
#   results/targets/run.sh features     frozen features of CIFAR-100 (700 MB in data/targets)
#   results/targets/run.sh likelihood   what explanations know that logits do not, without training
#   results/targets/run.sh head         29 targets of a linear head on frozen features, 20 seeds
#   results/targets/run.sh dtd10-head   the library's objectives on a head alone, ten textures, 5 seeds
#   results/targets/run.sh dtd10        fine-tuning, 800 photographs of ten textures, 5 seeds
#   results/targets/run.sh cifar-few    fine-tuning, CIFAR-100 with 10 images a class at 96 pixels, 5 seeds
#   results/targets/run.sh scratch      from scratch, CIFAR-100, 10,000 images at 16 pixels, ResNet-20, 5 seeds
#   results/targets/run.sh imagenette   from scratch, Imagenette at 64 pixels, small CNN, 5 seeds
#
# Each continues where it was stopped. SEEDS="0 1" makes the runs of those seeds alone, WORKERS says how many at a time.
# FINISHED=1 trains nothing and makes the table of the finished runs.
# data/ holds cifar100, dtd10 and imagenette128 as Parquet files; the weights come from the extra `pretrained`.
set -euo pipefail
out=results/targets
python -m studies.archive unpack "$out" # what is finished is not done again
features=data/targets/cifar100.safetensors
objectives=(standard label_smoothing ps_kd introspective
  own_mass:kappa=0 own_mass:kappa=0.5 own_mass:kappa=0.5,control=permuted)
read -ra seeds <<<"${SEEDS:-0 1 2 3 4}"
compare() {
  selfexplain compare --objectives "${objectives[@]}" --seeds "${seeds[@]}" --workers "${WORKERS:-1}" \
    ${FINISHED:+--finished-only} "$@"
}

case "${1:?features, likelihood, head, dtd10-head, dtd10, cifar-few, scratch or imagenette}" in
features)
  python -m studies.targets.features --data parquet:data/cifar100 --out "$features"
  ;;
likelihood)
  python -m studies.targets.likelihood --features "$features" --lr 10 --decay 1e-5 --epochs 60 \
    --out "$out/likelihood/head.json"
  for run in scratch dtd10; do
    if [ -d "$out/$run/runs/standard-seed0" ]; then
      python -m studies.targets.likelihood --run "$out/$run/runs/standard-seed0" --images 2000 \
        --out "$out/likelihood/$run.json"
    fi
  done
  ;;
head)
  python -m studies.targets.head_study --features "$features" --out "$out/head"
  ;;
dtd10-head)
  compare --data parquet:data/dtd10 --image-size 128 --model efficientnet_lite0 --pretrained --optimizer adamw \
    --freeze all --epochs 60 --batch-size 64 --lr 0.003 --out "$out/dtd10-head"
  ;;
dtd10)
  compare --data parquet:data/dtd10 --image-size 128 --model efficientnet_lite0 --pretrained --optimizer adamw \
    --head-epochs 30 --epochs 10 --batch-size 32 --body-lr 0.5 --layer-decay 0.9 --augment trivial --out "$out/dtd10"
  ;;
cifar-few)
  compare --data parquet:data/cifar100 --train-size 1000 --image-size 96 --model efficientnet_lite0 --pretrained \
    --optimizer adamw --head-epochs 30 --epochs 10 --batch-size 32 --body-lr 0.5 --layer-decay 0.9 --augment trivial \
    --out "$out/cifar-few"
  ;;
scratch)
  compare --data parquet:data/cifar100 --image-size 16 --train-size 10000 --model resnet20 --epochs 20 --out "$out/scratch"
  ;;
imagenette)
  compare --data parquet:data/imagenette128 --image-size 64 --model small_cnn --epochs 20 --out "$out/imagenette"
  ;;
*)
  echo "$0: there is no experiment $1; pass features, likelihood, head, dtd10-head, dtd10, cifar-few, scratch or imagenette" >&2
  exit 2
  ;;
esac
python -m studies.archive pack "$out"
