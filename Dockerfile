# A server for CPUs. The kernels are built where there is a compiler, and installed where there is none.
#   docker build -t asr-pathways .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/models:/models:ro" asr-pathways serve /models/five.asrp --host 0.0.0.0
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py MANIFEST.in README.md LICENSE ./
COPY src src
RUN CIBUILDWHEEL=1 pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim
# The default index's torch brings CUDA, some gigabytes: --build-arg TORCH_INDEX=URL names an index of CPU wheels.
ARG TORCH_INDEX
COPY constraints.txt /
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir --constraint /constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && pip install --no-cache-dir --constraint /constraints.txt "$(ls /wheels/*.whl)[hf,serve]" \
 && useradd --create-home user
USER user
# PYTHONMALLOC=malloc: what many streams took is given back to the system, which Python's own arenas are not.
ENV HF_HOME=/home/user/.cache/huggingface PYTHONMALLOC=malloc
EXPOSE 8000
ENTRYPOINT ["asr-pathways"]
CMD ["--help"]
