#!/usr/bin/env bash
# A release of a tag: where each artifact is, by digest, and the command that proves who signed it.
# In the environment, beside that of forge.sh: STREAM, the documents, attested; TAG.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../forge.sh"

documents=$(base64 --decode <<<"$STREAM" | gzip --decompress)
notes=$(jq --slurp --raw-output --from-file "$here/notes.jq" <<<"$documents")
body=$(jq --null-input --arg tag "$TAG" --arg notes "$notes" '{tag_name: $tag, name: $tag, body: $notes}')
# A second run of the same tag writes the same release over.
if release=$(forge GET "releases/tags/$TAG" 2>/dev/null); then
  release=$(forge PATCH "releases/$(jq .id <<<"$release")" "$body")
else
  release=$(forge POST releases "$body")
fi
jq --raw-output '"released: \(.html_url)"' <<<"$release"
printf '%s\n' "$notes" >>"$GITHUB_STEP_SUMMARY"
