# Two images: `operator` (the controller; no shell, no package manager) and `runtime` (driver and workers, with Ray).
#
#   docker build --target operator -t llmbatch/operator .
#   docker build --target runtime  -t llmbatch/runtime .
#
# Behind a mirror: --build-arg PYTHON_IMAGE=... --build-arg UV_IMAGE=... --build-arg RAY_IMAGE=...
ARG PYTHON_IMAGE=gcr.io/distroless/python3-debian13:latest@sha256:931a490beb37db6a1d137ad11ed47ae4c0d4741ca5c2285818b49e9a8ee11c56
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.13.9
ARG RAY_IMAGE=docker.io/rayproject/ray-llm:2.60.0-py312-cu130

FROM ${UV_IMAGE} AS uv

# The image that the libraries will run on installs them: the interpreter and its path are the same. It has no shell,
# so commands are lists.
FROM ${PYTHON_IMAGE} AS build
COPY --from=uv /uv /usr/local/bin/uv
ENV UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/llmbatch \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
# The libraries first: a change of the code does not install them again.
COPY pyproject.toml uv.lock ./
RUN ["/usr/local/bin/uv", "sync", "--locked", "--no-default-groups", "--extra", "operator", "--no-install-project"]
COPY README.md LICENSE ./
COPY operator ./operator
RUN ["/usr/local/bin/uv", "sync", "--locked", "--no-default-groups", "--extra", "operator", "--no-editable"]

FROM ${PYTHON_IMAGE} AS operator
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llmbatch operator" \
      org.opencontainers.image.description="Kubernetes operator for exactly-once batch LLM inference on spot GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/llmbatch/llmbatch" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/llmbatch /opt/llmbatch
# Nothing is written at run time: the root file system may be read-only. The user may be any number (OpenShift gives
# one of its own), so kopf, which asks for a name, finds one here.
ENV HOME=/tmp \
    PATH=/opt/llmbatch/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USER=llmbatch
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["llmbatch"]
CMD ["operator"]

# What the base lacks of the locked libraries is added; what it has (Ray, vLLM, CUDA and theirs) stays as it is.
FROM ${RAY_IMAGE} AS runtime
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="llmbatch runtime" \
      org.opencontainers.image.description="Driver and workers of llmbatch jobs, on a Ray LLM image" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/llmbatch/llmbatch" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER root
WORKDIR /src
COPY pyproject.toml uv.lock README.md LICENSE ./
COPY operator ./operator
RUN --mount=from=uv,source=/uv,target=/usr/bin/uv \
    python="$(command -v python)" \
    && present="$(uv pip freeze --python "$python" | sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package \1/p')" \
    && uv export --quiet --locked --no-default-groups --extra runtime --no-emit-project $present > /tmp/missing.txt \
    && uv pip install --no-cache --python "$python" --no-deps --require-hashes --requirement /tmp/missing.txt \
    && uv pip install --no-cache --python "$python" --no-deps . \
    && "$python" -c 'import llmbatch.runtime.serve' \
    && rm -r /tmp/missing.txt
WORKDIR /home/ray
USER 1000:100
