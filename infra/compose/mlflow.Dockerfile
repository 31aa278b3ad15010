# MLflow's server for a team: with the driver of Postgres, S3, and passwords (what its own image does not bring).
#
#   docker build --file infra/compose/mlflow.Dockerfile --tag sa2net-mlflow:3.17.2 .
#
# The project's folder is the context. Two optional secrets reach pip and stay in no layer: `ca`, a bundle of
# certificates, and `pip`, a pip.conf that names an index of your own.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
COPY constraints.txt infra/compose/mlflow.txt /build/
RUN --mount=type=secret,id=ca,target=/run/secrets/ca.pem,required=false \
    --mount=type=secret,id=pip,target=/etc/pip.conf,required=false \
    if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi; \
    python3 -m venv --without-pip /opt/mlflow \
    && python3 -m pip --python /opt/mlflow/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
        --root-user-action ignore --constraint /build/constraints.txt --requirement /build/mlflow.txt

FROM ${BASE_IMAGE}
COPY --from=builder /opt/mlflow /opt/mlflow
COPY infra/compose/auth.ini /etc/mlflow/auth.ini
COPY infra/compose/mlflow_user.py /opt/mlflow/mlflow_user.py
RUN printf '#!/bin/sh\nexec /opt/mlflow/bin/python3 /opt/mlflow/mlflow_user.py "$@"\n' > /opt/mlflow/bin/mlflow-user \
    && chmod 755 /opt/mlflow/bin/mlflow-user \
    && groupadd --gid 10001 mlflow \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin mlflow
ENV PATH=/opt/mlflow/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib \
    MLFLOW_AUTH_CONFIG_PATH=/etc/mlflow/auth.ini \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
LABEL org.opencontainers.image.title="sa2net-mlflow" \
      org.opencontainers.image.description="MLflow tracking server with Postgres, S3 and passwords." \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /tmp
USER 10001:10001
EXPOSE 5000
CMD ["mlflow", "server", "--help"]
