#!/usr/bin/env bash
# Creates a release of a tag. The notes list each artifact by digest and the command that verifies its signature.
# Environment, in addition to that of forge.sh: STREAM, the attested documents; TAG.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../forge.sh"

documents=$(base64 --decode <<<"$STREAM" | gzip --decompress)
notes=$(jq --slurp --raw-output --from-file "$here/notes.jq" <<<"$documents")
body=$(jq --null-input --arg tag "$TAG" --arg notes "$notes" '{tag_name: $tag, name: $tag, body: $notes}')
# A second run for the same tag edits the existing release.
if release=$(forge GET "releases/tags/$TAG" 2>/dev/null); then
  release=$(forge PATCH "releases/$(jq .id <<<"$release")" "$body")
else
  release=$(forge POST releases "$body")
fi
jq --raw-output '"released: \(.html_url)"' <<<"$release"
printf '%s\n' "$notes" >>"$GITHUB_STEP_SUMMARY"
