#!/usr/bin/env bash
# A quarter of an hour of one GPU, used to the last second. From the project's root:
#
#   results/gpu/quarter-hour.sh                 all stages, in 13 minutes (BUDGET=780 seconds)
#   results/gpu/quarter-hour.sh fast costs      these stages alone, in this order
#   results/gpu/quarter-hour.sh tables          no GPU: the tables of what is finished
#
# The same call again goes on where the last one stopped. Stages, settings and files are described in
# README.md beside this file, the logic is in studies/quarter_hour.py. DATA is the folder that holds
# the Parquet files of uoft-cs/cifar100 (Hugging Face hub), if they are not in data/cifar100.
set -euo pipefail
if [[ -z "${TOY:-}" && ! -e data/cifar100 ]]; then
  [[ -d "${DATA:-}" ]] || { echo "$0: data/cifar100 is missing; pass DATA=FOLDER" >&2; exit 2; }
  # A link, since the runs in results/baselines know their data as data/cifar100.
  mkdir -p data && ln -s "$(realpath "$DATA")" data/cifar100
fi
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# What one worker has compiled, the others and later runs take from here.
export TORCHINDUCTOR_FX_GRAPH_CACHE=1 TORCHINDUCTOR_AUTOGRAD_CACHE=1
export TORCHINDUCTOR_COMPILE_THREADS="${TORCHINDUCTOR_COMPILE_THREADS:-4}"
exec "${PYTHON:-python}" -m studies.quarter_hour "$@"
