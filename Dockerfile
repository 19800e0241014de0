# Builds without a network from the folder `wheels` beside this file, once the base image is there; docs/release.md says how the
# folder is filled.
#   docker build --target cpu -t fastrealign .
#   docker build --target cuda -t fastrealign:cuda .       # wheels also holds torch and fastrealign_cuda
#   docker run --rm -v "$PWD":/data fastrealign align texts/ --target images/ --out aligned/
FROM python:3.13-slim-bookworm AS cpu
# The version is that of the wheel in the folder.
# hadolint ignore=DL3013
RUN --mount=type=bind,source=wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels fastrealign && \
    useradd --create-home --uid 1000 user
USER 1000
WORKDIR /data
ENTRYPOINT ["fastrealign"]
CMD ["--help"]

# No CUDA toolkit: torch's wheels bring the libraries, the host's container runtime the driver.
FROM cpu AS cuda
USER 0
# hadolint ignore=DL3013
RUN --mount=type=bind,source=wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'fastrealign[cuda]'
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
