# One image for every component of Airflow, for MLflow, and for workers: the locked environment and
# the code. BASE is any Debian or Ubuntu with Python 3.11; GPU=1 adds what TensorFlow needs on NVIDIA
# GPUs: for managed training jobs with accelerators.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
ARG GPU=

RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libgomp1 postgresql-client tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 nightbid \
 && mkdir -p /app /data/workspace /data/airflow/logs /data/mlflow /data/cache \
 && chown -R nightbid /app /data

COPY requirements.txt /app/
# Compiled once here: else every task would compile what it imports, 33 CPU seconds instead of 10.
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --quiet --no-cache-dir uv==0.13.8 \
 && VIRTUAL_ENV=/opt/venv /opt/venv/bin/uv pip install --quiet --no-cache --compile-bytecode \
        $(test -n "$GPU" || echo --require-hashes) -r /app/requirements.txt ${GPU:+tensorflow[and-cuda]}

RUN printf '#!/bin/sh\nexec python3 -m nightbid "$@"\n' > /opt/venv/bin/nightbid \
 && chmod +x /opt/venv/bin/nightbid

# Where the root file system is read-only, libraries still find a home that they can write.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app/include:/app/plugins \
    PYTHONDONTWRITEBYTECODE=1 \
    AIRFLOW_HOME=/data/airflow \
    NIGHTBID_WORKSPACE=/data/workspace \
    NIGHTBID_PIPELINES=/app/include/pipelines \
    NIGHTBID_CACHE=/data/cache \
    HOME=/tmp
COPY --chown=nightbid include /app/include
COPY --chown=nightbid plugins /app/plugins
COPY --chown=nightbid dags /app/dags
COPY --chown=nightbid compose /app/compose
WORKDIR /app
USER nightbid
ENTRYPOINT ["tini", "--"]
CMD ["nightbid", "--help"]
