#!/usr/bin/env bash
# Who finds labels that were changed on purpose. From the project's root, about five minutes on two cores:
#
#   results/mislabels/run.sh
#
# data/dtd10 holds Parquet files (image, label) of ten classes of the Describable Textures Dataset; the weights come from the
# extra `pretrained`.
set -euo pipefail
python -m studies.mislabels --data "${DATA:-parquet:data/dtd10}" --out results/mislabels
