#!/bin/sh
# Make the secrets that infra/kubernetes refers to, with random values: sh infra/kubernetes/make-secrets.sh [NAMESPACE]
# A secret that is there is left as it is. Values go from here to kubectl through a pipe: none is in a command line or file.
set -eu
namespace=${1:-sa2net}

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

make() {
    name=$1
    shift
    if [ -n "$(kubectl --namespace "$namespace" get secret "$name" --ignore-not-found --output name)" ]; then
        echo "secret/$name is there"
    else
        printf '%s\n' "$@" | kubectl --namespace "$namespace" create secret generic "$name" --from-env-file=/dev/stdin
    fi
}

make sa2net-postgres POSTGRES_PASSWORD="$(random)"
make sa2net-s3 AWS_ACCESS_KEY_ID="$(random)" AWS_SECRET_ACCESS_KEY="$(random)"
make sa2net-mlflow-server MLFLOW_AUTH_ADMIN_PASSWORD="$(random)" MLFLOW_FLASK_SERVER_SECRET_KEY="$(random)" \
    MLFLOW_CRYPTO_KEK_PASSPHRASE="$(random)"
make sa2net-mlflow MLFLOW_TRACKING_USERNAME=pipeline MLFLOW_TRACKING_PASSWORD="$(random)"
