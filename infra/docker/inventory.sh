# What the image holds, made from what is installed in it: a bill of materials (CycloneDX), and a list of licences.
set -eu
mkdir -p /usr/share/sa2net
cd /usr/share/sa2net
/build/tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON --output-file sbom.cdx.json \
    /opt/sa2net/bin/python
/build/tools/bin/pip-licenses --python /opt/sa2net/bin/python --from mixed --with-urls --with-system --format csv \
    --output-file licences.csv
