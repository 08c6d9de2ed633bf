# selfexplain on a CPU:
#   docker build -t selfexplain .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" selfexplain train --data digits --out runs/one
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml MANIFEST.in README.md LICENSE CHANGELOG.md constraints.txt ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM python:${PYTHON}-slim
# Extras to install, in brackets, for example: --build-arg EXTRAS=[app,pretrained]
ARG EXTRAS=""
COPY --from=build /dist /dist
COPY constraints.txt /dist/
# PyTorch's own index first: from PyPI it brings CUDA.
RUN version=$(sed -n 's/^torch==//p' /dist/constraints.txt) \
    && python -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==$version" \
    && python -m pip install --no-cache-dir --constraint /dist/constraints.txt "$(echo /dist/*.whl)$EXTRAS" \
    && rm -r /dist \
    && useradd --uid 1000 --create-home selfexplain \
    && install --directory --owner selfexplain /work
USER 1000
# Caches go where any user may write; runs go to the folder mounted at /work.
ENV HF_HOME=/tmp/huggingface MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["selfexplain"]
CMD ["--help"]
