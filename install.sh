#!/bin/sh
# Installs what is missing, and nothing when nothing is. Runs before every npm script, on whatever Node npm itself uses.
set -eu
cd "$(dirname "$0")"
stamp=node_modules/.installed
if [ -f "$stamp" ] && cmp -s package-lock.json "$stamp"; then exit 0; fi
echo 'Installing what is missing (once) ...' >&2
if ! npm ci --no-fund --no-audit --loglevel=error >&2; then
  echo 'The packages could not be installed. Check the connection to your npm registry, then run the same command again.' >&2
  exit 1
fi
cp package-lock.json "$stamp"
