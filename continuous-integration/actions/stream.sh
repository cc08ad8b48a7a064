# Functions for the output `stream` of an action. run.sh and the scripts of the other actions source this file.
#
# A stream is the compressed documents. Documents that are too large for an output are in an artifact of the run, and the
# stream is {"artifact": NAME, "sha256": DIGEST}. Each action.yml uploads and downloads the artifact, because a script cannot.
# In its expression for NAME, the part '{}' is for act, which evaluates the inputs of a skipped step as well.
#
# Environment: STREAM; ARTIFACT, the folder of the downloaded artifact; to write, PROGRAM and VERB for the artifact's name

# Linux limits one environment string to 131,072 bytes (MAX_ARG_STRLEN, execve(2)), and the next job gets the stream as one.
stream_bytes_max=131000

read_stream() { # prints the documents of STREAM
  local file=${ARTIFACT-}/documents.json digest
  if [[ $STREAM != "{"* ]]; then
    base64 --decode <<<"$STREAM" | gzip --decompress
    return
  fi
  # Every job of a run can replace an artifact of the run, but no job can replace the output of another job.
  digest=$(jq --raw-output .sha256 <<<"$STREAM")
  if ! sha256sum --check --status <<<"$digest  $file" 2>/dev/null; then
    printf '::error title=stream::%s\n' "the artifact of the stream is missing, or its documents are not those of the job that wrote the stream: run that job again" >&2
    return 100
  fi
  cat "$file"
}

write_stream() { # FILE: prints the stream of the documents in FILE
  local stream
  stream=$(gzip --best --no-name <"$1" | base64 --wrap=0)
  if [ "${#stream}" -gt "$stream_bytes_max" ]; then
    # A run has one artifact of each name, and a job may run an action twice or run again.
    stream=$(jq --null-input --compact-output --arg name "$PROGRAM-$VERB-$(</proc/sys/kernel/random/uuid)" \
      --arg digest "$(sha256sum <"$1" | head --bytes=64)" '{artifact: $name, sha256: $digest}')
  fi
  printf '%s' "$stream"
}
