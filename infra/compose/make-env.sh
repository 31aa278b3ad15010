#!/bin/sh
# Write infra/compose/.env: the names of .env.example, a random value behind each that has none. Only you can read it.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "infra/compose/.env is there already: its passwords are those of the data in the volumes. Remove it by hand" \
        "only if those are gone too." >&2
    exit 1
fi
umask 077
new=$(mktemp .env.XXXXXX)
trap 'rm -f "$new"' EXIT
while IFS= read -r line; do
    case $line in
        \#*) printf '%s\n' "$line" ;;
        *=) printf '%s%s\n' "$line" "$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')" ;;
        *) printf '%s\n' "$line" ;;
    esac
done < .env.example > "$new"
mv "$new" .env
echo "infra/compose/.env written"
