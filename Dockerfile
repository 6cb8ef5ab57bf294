# Animal LDM for machines with an NVIDIA GPU and the NVIDIA Container Toolkit. It works on a CPU as well.
# Checked with hadolint only: this image has not been built or run yet.
#
#   docker build -t animal-ldm .
#   docker run --rm -it --gpus all --ipc host -v "$PWD/photos:/photos:ro" -v "$PWD/out:/out" \
#       animal-ldm run /photos /out --minutes 60
#
# --ipc host: PyTorch's worker processes pass images through shared memory, of which Docker gives 64 MB by default.
# To keep downloads and latents between containers, add -v animal-ldm-cache:/cache.

# PyPI's wheels of PyTorch for Linux bring CUDA's libraries with them; the driver is the host's.
FROM python:3.12-slim

# What the NVIDIA Container Toolkit gives to the container: all GPUs; compute, and nvidia-smi.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/cache

# torch.compile needs a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /usr/src/app

COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[demo]' \
    && useradd --uid 1000 --create-home animal \
    && mkdir /cache /out \
    && chown 1000 /cache /out

USER 1000
WORKDIR /home/animal
VOLUME ["/cache"]

ENTRYPOINT ["animal-ldm"]
CMD ["doctor"]
