#!/usr/bin/env bash
# Which self-made target beats label smoothing and PS-KD, and does similarity add to it? From the project's root:
#
#   results/targets/run.sh features     frozen features of CIFAR-100 (700 MB in data/targets)
#   results/targets/run.sh likelihood   what explanations know that logits do not, without training
#   results/targets/run.sh head         29 targets of a linear head on frozen features, 20 seeds
#   results/targets/run.sh dtd10-head   the library's objectives on a head alone, ten textures, 5 seeds
#   results/targets/run.sh dtd10-tune   settings of plain fine-tuning, on a validation split, 2 seeds
#   results/targets/run.sh dtd10        fine-tuning, 800 photographs of ten textures, 5 seeds
#   results/targets/run.sh cifar-few    fine-tuning, CIFAR-100 with 10 images a class at 96 pixels, 5 seeds
#   results/targets/run.sh scratch-tune settings and forms of each objective from scratch, on a validation split, 1 seed
#   results/targets/run.sh scratch      from scratch, CIFAR-100, 10,000 images at 16 pixels, small CNN, 5 seeds
#   results/targets/run.sh imagenette   from scratch, Imagenette at 64 pixels, small CNN, 5 seeds
#   results/targets/run.sh settings     all of them side by side: does a target beat label smoothing and PS-KD?
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
# From scratch, what scratch-tune favours: a mass that is small while the network is still unsure.
capped=(standard label_smoothing:smoothing=0.05 ps_kd:alpha=0.4 introspective
  own_mass:kappa=0,cap=0.1 own_mass:kappa=0.5,cap=0.1 own_mass:kappa=0.5,cap=0.1,control=permuted)
read -ra seeds <<<"${SEEDS:-0 1 2 3 4}"
compare() {
  selfexplain compare --objectives "${objectives[@]}" --seeds "${seeds[@]}" --workers "${WORKERS:-1}" \
    ${FINISHED:+--finished-only} "$@"
}
scratch=(--data parquet:data/cifar100 --image-size 16 --train-size 10000 --model small_cnn --epochs 20)

case "${1:?features, likelihood, head, dtd10-head, dtd10-tune, dtd10, cifar-few, scratch-tune, scratch, imagenette or settings}" in
features)
  python -m studies.targets.features --data parquet:data/cifar100 --out "$features"
  ;;
likelihood)
  python -m studies.targets.likelihood --features "$features" --lr 10 --decay 1e-5 --epochs 60 \
    --out "$out/likelihood/head.json"
  for run in scratch dtd10 cifar-few; do
    layers=(--layers block1 block2)
    [ "$run" = scratch ] || layers=()
    runs=("$out/$run"/runs/standard-seed*)
    [ ! -f "${runs[0]}/model.safetensors" ] || # of these runs themselves: the archive has no weights
      python -m studies.targets.likelihood --runs "${runs[@]}" "${layers[@]}" --no-gradients --images 2000 \
        --out "$out/likelihood/$run.json"
  done
  ;;
head)
  python -m studies.targets.head_study --features "$features" --out "$out/head"
  ;;
dtd10-head)
  compare --data parquet:data/dtd10 --image-size 128 --model efficientnet_lite0 --pretrained --optimizer adamw \
    --freeze all --epochs 60 --batch-size 64 --lr 0.003 --out "$out/dtd10-head"
  ;;
dtd10-tune) # what plain fine-tuning should look like, on a quarter of the training photographs; tests nothing
  tried() {
    for seed in "${seeds[@]:0:2}"; do
      [ -f "$out/dtd10-tune/runs/$1-seed$seed/result.json" ] || selfexplain train --objective standard \
        --data parquet:data/dtd10 --image-size 128 --validation 0.25 --seed "$seed" \
        --model efficientnet_lite0 --pretrained --optimizer adamw --out "$out/dtd10-tune/runs/$1-seed$seed" "${@:2}"
    done
  }
  tried head --freeze all --epochs 30 --batch-size 32
  full=(--head-epochs 30 --batch-size 32)
  tried body-0.1 "${full[@]}" --epochs 10 --body-lr 0.1 --augment trivial
  tried norm-0.1 "${full[@]}" --epochs 5 --body-lr 0.1 --freeze-norm
  tried norm-0.1-trivial "${full[@]}" --epochs 5 --body-lr 0.1 --freeze-norm --augment trivial
  tried norm-0.5 "${full[@]}" --epochs 5 --body-lr 0.5 --freeze-norm
  tried norm-0.5-late "${full[@]}" --epochs 5 --body-lr 0.5 --freeze-norm --freeze blocks.10
  ;;
dtd10)
  compare --data parquet:data/dtd10 --image-size 128 --model efficientnet_lite0 --pretrained --optimizer adamw \
    --head-epochs 30 --epochs 5 --batch-size 32 --body-lr 0.1 --freeze-norm --out "$out/dtd10"
  ;;
cifar-few)
  compare --data parquet:data/cifar100 --train-size 1000 --test-size 2000 --image-size 96 --model efficientnet_lite0 --pretrained \
    --optimizer adamw --head-epochs 30 --epochs 5 --batch-size 32 --body-lr 0.1 --freeze-norm \
    --out "$out/cifar-few"
  ;;
scratch-tune) # on a fifth of the training images, seeds that no test uses
  objectives=(standard label_smoothing:smoothing=0.05 label_smoothing ps_kd:alpha=0.4 ps_kd
    introspective:weight=0.05 introspective own_mass:kappa=0,cap=0.1 own_mass:kappa=0,cap=0.3
    own_mass:kappa=0.5,cap=0.1 own_mass:kappa=1,cap=0.1 own_mass:kappa=-0.5,cap=0.1
    own_mass:kappa=0,cap=0.1,guard=true own_mass:rho=0.5,kappa=1,cap=0.3
    own_mass:kappa=0.5,cap=0.1,aggregation=class own_mass:kappa=learned,cap=0.1
    own_mass:kappa=0.5,cap=0.1,kind=grad_cam,layer=block2 own_mass:kappa=0,cap=0.1,mass_from=average
    dense_places cutmix+standard cutmix:labels=explanation+standard)
  seeds=(10)
  compare "${scratch[@]}" --validation 0.2 --out "$out/scratch-tune"
  ;;
scratch)
  objectives=("${capped[@]}")
  compare "${scratch[@]}" --out "$out/scratch"
  ;;
imagenette)
  objectives=("${capped[@]}")
  compare --data parquet:data/imagenette128 --image-size 64 --train-size 1000 --model small_cnn --epochs 15 \
    --batch-size 32 --out "$out/imagenette"
  ;;
settings)
  python -m studies.targets.settings --study "$out" --out "$out/settings.md"
  ;;
*)
  echo "$0: there is no experiment $1; pass features, likelihood, head, dtd10-head, dtd10-tune, dtd10, cifar-few, scratch-tune, scratch, imagenette or settings" >&2
  exit 2
  ;;
esac
python -m studies.archive pack "$out"
