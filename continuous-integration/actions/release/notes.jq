# Formats the notes of a release from the documents of artifact-attest.
# Arguments: $checksums, the output of sha256sum for the archives and their bills; $repository; $tag; $server, the URL of the forge.
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
  "```",
  "\n| file | SHA-256 |",
  "|---|---|",
  ($checksums | split("\n")[] | select(. != "") | split("  ") | "| \(.[1]) | `\(.[0])` |"),
  "\nEach archive has a bill of materials in the CycloneDX format, `.cdx.json`, and a signature, `.tar.gz.sigstore.json`.",
  "These commands verify every archive in a folder. They need cosign 3 and gh 2.68 or newer, and prove that the workflow of",
  "the release at this tag built the archive:",
  "\n```sh\n(set -e; for archive in *.tar.gz; do",
  "  cosign verify-blob --bundle \"$archive.sigstore.json\" \\",
  "    --certificate-identity \($server)/\($repository)/.github/workflows/release.yaml@refs/tags/\($tag) \\",
  "    --certificate-oidc-issuer https://token.actions.githubusercontent.com \"$archive\"",
  "  gh attestation verify \"$archive\" --repo \($repository) --source-ref refs/tags/\($tag) \\",
  "    --signer-workflow \($repository)/.github/workflows/release.yaml",
  "done)\n```"
