#!/usr/bin/env bash
# Writes the plan to one comment on a pull request. The first run creates the comment, and later runs edit it.
# Environment, in addition to that of forge.sh: STREAM, the documents; PULL_REQUEST, its number; COMMIT, the planned commit.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../forge.sh"
source "$here/../stream.sh"

marker='<!-- holistic: the plan of this pull request -->'
# GitHub limits a comment to 65,536 characters, and a page of comments to one hundred.
characters_max=60000
pages_max=20

[ -n "$STREAM" ] || { printf '::error title=no plan::no earlier job has an output with documents\n' >&2; exit 1; }
documents=$(read_stream)
plan=$(jq --slurp --raw-output --from-file "$here/../markdown.jq" <<<"$documents")
# A document that no job has planned must not look like a document without steps.
unknown=$(jq --slurp --raw-output '[.[] | select(.apiVersion // "" | startswith("holistic/"))
  | select(.kind != "Project" and (.status.conditions | not)) | "`\(.kind)/\(.metadata.name)`"] | join(", ")' <<<"$documents")
[ -z "$unknown" ] || plan+=$'\n\n'"Not planned here: $unknown. Their plan needs keys that jobs of pull requests do not have. A person with the keys runs the plan."
if [ "${#plan}" -gt "$characters_max" ]; then
  plan="${plan:0:$characters_max}…"$'\n\n'"The plan is longer than GitHub allows for a comment. The summary of the workflow contains the rest."
fi
body=$(printf '%s\n### Steps that `apply` would execute at %s\n\n%s\n' "$marker" "$COMMIT" "$plan" | jq --raw-input --slurp '{body: .}')

comment=
for ((page = 1; page <= pages_max; page++)); do
  comments=$(forge GET "issues/$PULL_REQUEST/comments?per_page=100&page=$page")
  comment=$(jq --arg marker "$marker" 'map(select(.body | startswith($marker)).id) | first // empty' <<<"$comments")
  # Gitea returns all comments at once and ignores the page.
  if [ -n "$comment" ] || [ "$(jq length <<<"$comments")" -lt 100 ]; then break; fi
done
if [ -n "$comment" ]; then
  forge PATCH "issues/comments/$comment" "$body" | jq --raw-output '"edited: \(.html_url)"'
else
  forge POST "issues/$PULL_REQUEST/comments" "$body" | jq --raw-output '"created: \(.html_url)"'
fi
