# Install into the image's environment with the pip of the build stage: the image itself has none.
set -eu
if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi
if [ -s /run/secrets/pip.conf ]; then export PIP_CONFIG_FILE=/run/secrets/pip.conf; fi
/build/tools/bin/python -m pip --python /opt/sa2net/bin/python install \
    --quiet --no-cache-dir --no-compile --disable-pip-version-check --root-user-action ignore "$@"
# Bytecode is made once, here, on all processors: a read-only root cannot keep it later. The packages' own tests are
# never run here. Files that are templates or for another Python do not compile; nothing imports them.
/opt/sa2net/bin/python -m compileall -qq -j 0 -x '/tests/' /opt/sa2net/lib || true
