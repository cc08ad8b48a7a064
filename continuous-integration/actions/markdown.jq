# Formats documents as Markdown: the condition of each document, and its remaining steps.

# Escapes text for a table cell or a line, so that it is not interpreted as markup.
def text: gsub("&"; "&amp;") | gsub("<"; "&lt;") | gsub("(?<mark>[\\\\|`*_\\[\\]])"; "\\\(.mark)") | gsub("\\s+"; " ");

# A step is flat: its action, then the values of its fields.
def step:
  if has("action") then [.action, (del(.action) | .. | scalars | tostring)] | join(" ")
  else to_entries[] | [.key, (.value | .. | scalars | tostring)] | join(" ") end
  | .[:300] | text;

def name: "\(.kind)/\(.metadata.name)" | text;

[.[] | select(.status.conditions)] as $documents
| "| document | Ready | reason | message |",
  "|---|---|---|---|",
  (
    $documents[] | name as $name | .status.conditions[] | select(.type == "Ready")
    | "| \($name) | \(.status | text) | \(.reason | text) | \(.message | text) |"
  ),
  "",
  (
    $documents[] | select(.status.plan // [] | length > 0)
    | "<details><summary>\(name): steps to take: \(.status.plan | length)</summary>\n",
      (.status.plan[] | "- \(step)"),
      "\n</details>\n"
  )
