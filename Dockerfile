# alexnet on CPUs, with the versions of constraints.txt.
#   docker build -t alexnet --build-arg TORCH_INDEX=URL .     URL: the index of torch's CPU builds
#   docker run --rm --init alexnet doctor
# docs/first-steps.md shows how the commands see your folders. podman and buildah build it too.
FROM debian:bookworm-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m venv /opt/alexnet
ENV PATH=/opt/alexnet/bin:$PATH \
    PIP_CONSTRAINT=/opt/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

# The libraries, in layers that a change of the source does not touch. torch comes from an index of CPU builds and from
# no other, or pip would take the build for CUDA, with gigabytes of libraries.
ARG TORCH_INDEX
WORKDIR /opt/source
COPY constraints.txt .
RUN if [ -z "$TORCH_INDEX" ]; then \
      echo "TORCH_INDEX is not set; name the index of torch's CPU builds with --build-arg TORCH_INDEX=URL" >&2; exit 1; \
    fi
RUN pip install --no-deps --index-url "$TORCH_INDEX" torch
COPY pyproject.toml .
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > /tmp/dependencies.txt \
 && pip install -r /tmp/dependencies.txt

COPY README.md LICENSE ./
COPY src src
RUN pip install --no-deps .

# Any user can write into the home folder (`docker run --user`); machine code that Numba compiles is kept there.
RUN useradd --uid 1000 --create-home alexnet \
 && mkdir /work \
 && chmod 1777 /home/alexnet /work
ENV HOME=/home/alexnet
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["alexnet"]
CMD ["--help"]
