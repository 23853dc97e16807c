# What a Dataflow worker runs: Beam's own boot program with this environment and this code.
# Build it after the image that it extends:  docker build -t nightbid .
#   docker build -f worker.Dockerfile --build-arg APP=nightbid -t REGION-docker.pkg.dev/PROJECT/nightbid/worker:TAG .
# A worker compares its code and libraries with what submitted the job, and refuses others.
# Build it with --build-arg RUN_AS=root where a worker's mounted folders belong to root alone.
ARG APP=nightbid:local
ARG BEAM=apache/beam_python3.11_sdk:2.77.0
FROM ${BEAM} AS beam

FROM ${APP}
ARG RUN_AS=nightbid
USER root
COPY --from=beam /opt/apache/beam /opt/apache/beam
USER ${RUN_AS}
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENTRYPOINT ["/opt/apache/beam/boot"]
