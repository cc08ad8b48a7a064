# Functions for the forge that runs this workflow: GitHub, or Gitea, whose API has the same paths.
# Environment: TOKEN; GITHUB_API_URL and GITHUB_REPOSITORY, which the runner sets.

forge() { # METHOD PATH [BODY]: prints the answer as JSON. The token is not an argument, because every user can list arguments. No retries.
  local answer
  if answer=$(curl --silent --show-error --fail-with-body --max-time 60 --request "$1" \
    --header @<(printf 'Authorization: Bearer %s\n' "$TOKEN") \
    --header 'Accept: application/json' --header 'Content-Type: application/json' \
    ${3:+--data-binary @-} "$GITHUB_API_URL/repos/$GITHUB_REPOSITORY/$2" <<<"${3-}"); then
    printf '%s\n' "$answer"
  else
    printf '%s %s: %s\n' "$1" "$2" "$answer" >&2
    return 1
  fi
}

upload() { # URL FILE: sends a file of a release to the address that the forge has given.
  curl --silent --show-error --fail-with-body --max-time 600 --request POST \
    --header @<(printf 'Authorization: Bearer %s\n' "$TOKEN") --header 'Content-Type: application/octet-stream' --data-binary "@$2" "$1"
}
