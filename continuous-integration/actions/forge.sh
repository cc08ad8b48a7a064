# Sourced by the scripts that speak to the forge whose workflow this is: GitHub, or a Gitea, whose API has the same paths.
# In the environment: TOKEN; GITHUB_API_URL and GITHUB_REPOSITORY, which the runner sets.

forge() { # METHOD PATH [BODY]: the answer, as JSON. The token is in no argument vector. Nothing is asked twice by itself.
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
