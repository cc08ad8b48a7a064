#!/usr/bin/env bash
# Ends with an error unless the tag of the run is the version in Cargo.toml, because images are published under that version.
set -euo pipefail
version=v$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
if [ "$version" != "$GITHUB_REF_NAME" ]; then
  printf '::error::the tag is %s, and Cargo.toml says %s; write the version of the tag into Cargo.toml, and tag that commit\n' "$GITHUB_REF_NAME" "$version" >&2
  exit 1
fi
