#!/usr/bin/env bash
# Writes the credentials that are sealed for readers to readers.json. Environment: DOCUMENTS, a file of documents.
set -euo pipefail
jq --compact-output 'select(.kind == "Cluster" and .status.sealed)
  | {apiVersion, kind, metadata: {name: .metadata.name},
     status: {sealed: .status.sealed | with_entries(select(.key | startswith("reader")))}}' "$DOCUMENTS" >readers.json
