# Formats the notes of a release from the documents of artifact-attest.
[.[] | select(.kind == "Artifact")] as $artifacts
| if $artifacts | length > 0 and all(.status.conditions | any(.type == "Ready" and .status == "True"))
  then . else error("an artifact is not published") end
| "| artifact | commit | image |",
  "|---|---|---|",
  (
    $artifacts[]
    | "| \(.metadata.name) | `\(first(.status.evidence[].gitCommit | values))` | `\(.status.observed.reference)` |"
  ),
  "\nThese commands verify the signatures and the provenance:",
  "\n```sh\ncat >cosign.pub <<'END'\n\($artifacts[0].status.observed.publicKey | rtrimstr("\n"))\nEND",
  ($artifacts[].status.observed.verifyWith),
  "```"
