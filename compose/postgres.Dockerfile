# PostgreSQL of the distribution, for machines that reach no image registry.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
RUN apt-get update \
 && apt-get install -y --no-install-recommends postgresql \
 && rm -rf /var/lib/apt/lists/* \
 && mkdir -p /var/lib/postgresql/data \
 && chown postgres /var/lib/postgresql/data
COPY compose/postgres.sh /usr/local/bin/start
USER postgres
CMD ["bash", "/usr/local/bin/start"]
