# Every document that is not Ready, as a command to the runner, which shows it beside the job.
def escaped: gsub("%"; "%25") | gsub("\r"; "%0D") | gsub("\n"; "%0A");
. as $document
| .status.conditions[]?
| select(.type == "Ready" and .status != "True")
| "::error title=\($document.kind)/\($document.metadata.name) is not Ready::"
  + ("\(.reason): \(.message)" | escaped)
