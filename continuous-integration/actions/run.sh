#!/usr/bin/env bash
# Runs one program as a step of a job. Every action beside this file calls this script.
#
# Environment:
#   PROGRAM, VERB, FLAGS   the command line
#   DOCUMENTS              paths of documents, one per line
#   STREAM, ARTIFACT       the output `stream` of another job: see stream.sh
#   IDENTITY or READER     the key of the phase, or the key of a reader
#   SEALED                 a file with documents of an earlier run; Clusters of the stream get the credentials for readers from it
#   FACTS                  one line for each further output: its name and a jq filter
#   VERSION, REPOSITORY, REF, RELEASE_TOKEN   the source of the program: see install.sh
# The exit status is the program's. A failed program also writes its documents, so every output is set from them.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/stream.sh"

# GitHub drops a summary above 1 MiB: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#step-isolation-and-limits
summary_bytes_max=1000000

output() { # NAME VALUE: the value may have any number of lines; the random delimiter keeps a line from ending it
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
  read_stream >"$folder/stream.json"
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

# The program reads the key of its phase from a variable such as FLUX_SEED_KEY.
variable=${PROGRAM^^}
variable=${variable//-/_}_KEY
[ -z "$IDENTITY" ] || export "$variable=$IDENTITY"
[ -z "${READER-}" ] || export READER_KEY="$READER"
unset IDENTITY READER STREAM ARTIFACT

source "$here/install.sh"

# GitHub renders Mermaid in a summary. A program of an earlier release has no pictures, and the caller may want another one.
picture=$folder/evidence.mmd
if [[ "$PROGRAM $VERB" = "flux-seed verify" && " ${flags[*]}" != *" --output"* && " ${flags[*]}" != *" -o"* ]] \
  && [[ $("$PROGRAM" verify --help 2>/dev/null) = *mermaid* ]]; then
  flags=(--output "mermaid=$picture" "${flags[@]}")
fi

# The runner signals only this shell when a job is cancelled, so pass the signal on: the program finishes its current step.
# Standard error is kept as well, because errors of rejected documents are reported only there.
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
output observed "$(jq --slurp --compact-output '[.[] | select(.status.observed) | {key: "\(.kind)/\(.metadata.name)", value: .status.observed}] | from_entries' "$documents")"
while read -r name filter; do
  [ -z "$name" ] || output "$name" "$(jq --raw-output "($filter) // empty | select(. != \"known after apply\")" "$documents")"
done <<<"$FACTS"
{
  printf '### %s %s: %s\n\n' "$PROGRAM" "$VERB${FLAGS:+ $FLAGS}" "exit status $status"
  jq --slurp --raw-output --from-file "$here/markdown.jq" "$documents"
  if [ -s "$picture" ]; then printf '\n```mermaid\n%s\n```\n' "$(<"$picture")"; fi
  if [ "$status" = 2 ]; then printf '```text\n%s\n```\n' "$(head --bytes=60000 "$folder/said" | tr -d '`')"; fi
} >"$folder/summary"
if [ "$(stat --format %s "$folder/summary")" -gt "$summary_bytes_max" ]; then
  head --bytes="$summary_bytes_max" "$folder/summary" | sed '$d' # the last line is not whole
  printf '\nThe summary is longer than GitHub shows. The output `documents` has the rest.\n'
else
  cat "$folder/summary"
fi >>"$GITHUB_STEP_SUMMARY"

stream=$(write_stream "$documents")
output stream "$stream"
[[ $stream != "{"* ]] || output artifact "$(jq --raw-output .artifact <<<"$stream")" # the next step of the action uploads it
if [ "$status" = 2 ]; then # the documents were invalid, and the program wrote none
  while IFS= read -r line; do error "$PROGRAM" "${line#error: }"; done < <(grep '^error: ' "$folder/said" | sed 's/%/%25/g')
fi
[ "$status" = 0 ] || jq --raw-output --from-file "$here/annotations.jq" "$documents" >&2
exit "$status"
