#!/usr/bin/env bash
# One comment on a pull request, with the plan: written once, then written over.
# In the environment, beside that of forge.sh: STREAM, the documents; PULL_REQUEST, its number; COMMIT, which was planned.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/../forge.sh"

marker='<!-- holistic: the plan of this pull request -->'
# A comment has 65,536 characters at most, and lists of comments a hundred per page.
characters_max=60000
pages_max=20

[ -n "$STREAM" ] || { printf '::error title=no plan::no job before this one has handed on any documents\n' >&2; exit 1; }
documents=$(base64 --decode <<<"$STREAM" | gzip --decompress)
plan=$(jq --slurp --raw-output --from-file "$here/../markdown.jq" <<<"$documents")
# What no job has looked at must not look like what has nothing left to do.
unknown=$(jq --slurp --raw-output '[.[] | select(.apiVersion // "" | startswith("holistic/"))
  | select(.kind != "Project" and (.status.conditions | not)) | "`\(.kind)/\(.metadata.name)`"] | join(", ")' <<<"$documents")
[ -z "$unknown" ] || plan+=$'\n\n'"Not planned here: $unknown. A plan of these needs keys that no pull request gets; whoever has them runs it."
if [ "${#plan}" -gt "$characters_max" ]; then
  plan="${plan:0:$characters_max}…"$'\n\n'"It is longer than a comment can be: the rest is in the summary of the workflow."
fi
body=$(printf '%s\n### What `apply` would do, at %s\n\n%s\n' "$marker" "$COMMIT" "$plan" | jq --raw-input --slurp '{body: .}')

comment=
for ((page = 1; page <= pages_max; page++)); do
  comments=$(forge GET "issues/$PULL_REQUEST/comments?per_page=100&page=$page")
  comment=$(jq --arg marker "$marker" 'map(select(.body | startswith($marker)).id) | first // empty' <<<"$comments")
  # Gitea gives all of them at once, whatever page is asked for.
  if [ -n "$comment" ] || [ "$(jq length <<<"$comments")" -lt 100 ]; then break; fi
done
if [ -n "$comment" ]; then
  forge PATCH "issues/comments/$comment" "$body" | jq --raw-output '"written over: \(.html_url)"'
else
  forge POST "issues/$PULL_REQUEST/comments" "$body" | jq --raw-output '"written: \(.html_url)"'
fi
