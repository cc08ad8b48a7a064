# Whether every document that a program has looked at is Ready.
[.[].status.conditions // empty | .[] | select(.type == "Ready").status == "True"] | length > 0 and all
