#!/usr/bin/env bash
# One program, as a step of a job: every action beside this file calls it, and is told here what its inputs mean.
#
# In the environment: PROGRAM; VERB and FLAGS; DOCUMENTS, a path per line; STREAM, documents that another job handed
# on; IDENTITY, the key of the phase, or READER, that of a reader; SEALED, a file with documents of an earlier run, from
# whose statuses Clusters of the stream take the credentials that are sealed for readers; FACTS, a line for each further output: its name, and where jq finds it.
# The exit status is the program's. A failed program has written its documents, too, so every output is made of them.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")

# Linux takes no longer string into the environment, and that is how the next job is given the stream.
stream_bytes_max=131000

output() { # NAME VALUE: of any number of lines, none of which can end it early
  local end
  end=$(cat /proc/sys/kernel/random/uuid)
  printf '%s<<%s\n%s\n%s\n' "$1" "$end" "$2" "$end" >>"$GITHUB_OUTPUT"
}
error() { printf '::error title=%s::%s\n' "$1" "$2" >&2; }

folder=$(mktemp -d "$RUNNER_TEMP/$PROGRAM.XXXXXX")
documents=$folder/documents.json
output documents "$documents"

inputs=()
if [ -n "$STREAM" ]; then
  base64 --decode <<<"$STREAM" | gzip --decompress >"$folder/stream.json"
  if [ -s "${SEALED-}" ]; then
    jq --compact-output --slurpfile earlier "$SEALED" --from-file "$here/sealed.jq" "$folder/stream.json" >"$folder/sealed.json"
    mv "$folder/sealed.json" "$folder/stream.json"
  fi
  inputs+=("$folder/stream.json")
fi
while IFS= read -r line; do
  [ -z "$line" ] || inputs+=("$line")
done <<<"$DOCUMENTS"
read -ra flags <<<"${FLAGS//$'\n'/ }"

# The variable from which the program takes the key of its phase: FLUX_SEED_KEY.
variable=${PROGRAM^^}
variable=${variable//-/_}_KEY
[ -z "$IDENTITY" ] || export "$variable=$IDENTITY"
[ -z "${READER-}" ] || export READER_KEY="$READER"
unset IDENTITY READER STREAM

# What is on the path wins; otherwise the program is built from the repository, and the commit, that this action is of.
if ! command -v "$PROGRAM" >/dev/null; then
  flake=${GITHUB_ACTION_PATH%/continuous-integration/*}
  built=$(nix --extra-experimental-features 'nix-command flakes' build --no-link --json "$flake#$PROGRAM")
  PATH=$(jq --raw-output '.[0].outputs.out' <<<"$built")/bin:$PATH
fi

# A job that is cancelled signals this shell alone: handed on, the program finishes the step in hand.
# What it says is kept, too: of documents that were refused nothing else tells.
exec 4> >(tee -i "$folder/said" >&2)
tee=$!
"$PROGRAM" "$VERB" "${flags[@]}" "${inputs[@]}" </dev/null >"$documents" 2>&4 &
program=$!
exec 4>&-
trap 'kill -TERM "$program" 2>/dev/null || true' INT TERM
status=0
while :; do
  status=0
  wait "$program" || status=$?
  kill -0 "$program" 2>/dev/null || break
done
wait "$tee" || true

output ready "$(jq --slurp --raw-output --from-file "$here/ready.jq" "$documents")"
while read -r name filter; do
  [ -z "$name" ] || output "$name" "$(jq --raw-output "($filter) // empty | select(. != \"known after apply\")" "$documents")"
done <<<"$FACTS"
{
  printf '### %s %s: %s\n\n' "$PROGRAM" "$VERB${FLAGS:+ $FLAGS}" "exit status $status"
  jq --slurp --raw-output --from-file "$here/markdown.jq" "$documents"
  if [ "$status" = 2 ]; then printf '```text\n%s\n```\n' "$(head --bytes=60000 "$folder/said" | tr -d '`')"; fi
} >>"$GITHUB_STEP_SUMMARY"

stream=$(gzip --best --no-name <"$documents" | base64 --wrap=0)
if [ "${#stream}" -le "$stream_bytes_max" ]; then
  output stream "$stream"
else
  error "$PROGRAM" "its documents are too many for another job (${#stream} bytes, at most $stream_bytes_max): hand the file on, in this job"
fi
if [ "$status" = 2 ]; then # the documents were refused, and none was written
  while IFS= read -r line; do error "$PROGRAM" "${line#error: }"; done < <(grep '^error: ' "$folder/said" | sed 's/%/%25/g')
fi
[ "$status" = 0 ] || jq --raw-output --from-file "$here/annotations.jq" "$documents" >&2
exit "$status"
