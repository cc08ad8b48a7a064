#!/usr/bin/env bash
# Creates a release of a tag. The notes list each artifact by digest and the command that verifies its signature. The release
# is a draft until it has all of its files, so that they appear at once.
# Environment, in addition to that of forge.sh: STREAM, the attested documents; TAG; FILES, a folder.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../forge.sh"
source "$here/../stream.sh"

documents=$(read_stream)
checksums=$(cd "$FILES" && sha256sum -- *.tar.gz *.cdx.json)
notes=$(jq --slurp --raw-output --from-file "$here/notes.jq" --arg checksums "$checksums" --arg repository "$GITHUB_REPOSITORY" \
  --arg tag "$TAG" --arg server "$GITHUB_SERVER_URL" <<<"$documents")
body=$(jq --raw-input --slurp --arg tag "$TAG" '{tag_name: $tag, name: $tag, body: ., draft: true}' <<<"$notes")
# A second run for the same tag completes the existing release. A draft is in the list alone.
release=$(forge GET "releases?per_page=100" | jq --arg tag "$TAG" 'first(.[] | select(.tag_name == $tag)) // empty')
[ -n "$release" ] || release=$(forge POST releases "$body")
id=$(jq .id <<<"$release")
url=$(jq --raw-output '.upload_url | sub("\\{.*"; "")' <<<"$release") # a template of RFC 6570
for file in "$FILES"/*; do
  name=$(basename "$file")
  size=$(jq --arg name "$name" '.assets[] | select(.name == $name).size' <<<"$release")
  if [ -z "$size" ]; then
    upload "$url?name=$name" "$file" >/dev/null
  elif [[ $name == *.sigstore.json ]]; then
    : # the signature of the first run verifies the same archive, and no two signatures are equal
  elif [ "$size" != "$(stat --format %s "$file")" ]; then
    # Builds are reproducible, and people may have the first file already.
    printf '::error::%s of release %s has another size; the files of a release do not change, so release another tag\n' "$name" "$TAG" >&2
    exit 1
  fi
done
release=$(forge PATCH "releases/$id" "$(jq '.draft = false' <<<"$body")")
jq --raw-output '"released: \(.html_url)"' <<<"$release"
printf '%s\n' "$notes" >>"$GITHUB_STEP_SUMMARY"
