# Prints whether every processed document is Ready.
[.[].status.conditions // empty | .[] | select(.type == "Ready").status == "True"] | length > 0 and all
