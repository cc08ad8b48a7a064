# Prints a workflow command for every document that is not Ready. The runner shows it as an annotation of the job.
def escaped: gsub("%"; "%25") | gsub("\r"; "%0D") | gsub("\n"; "%0A");
. as $document
| .status.conditions[]?
| select(.type == "Ready" and .status != "True")
| "::error title=\($document.kind)/\($document.metadata.name) is not Ready::"
  + ("\(.reason): \(.message)" | escaped)
