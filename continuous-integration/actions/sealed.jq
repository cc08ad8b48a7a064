# Adds the credentials that an earlier run sealed for readers to a document of the stream.
def readers: .status.sealed // {} | with_entries(select(.key | startswith("reader")));

if .kind == "Cluster" then
  .metadata.name as $name
  | [$earlier[] | select(.kind == "Cluster" and .metadata.name == $name) | readers] as $sealed
  | .status.sealed = ($sealed | add // {}) + (.status.sealed // {})
else . end
