# A document of the stream, with the credentials that an earlier run sealed for readers.
def readers: .status.sealed // {} | with_entries(select(.key | startswith("reader")));

if .kind == "Cluster" then
  .metadata.name as $name
  | [$earlier[] | select(.kind == "Cluster" and .metadata.name == $name) | readers] as $sealed
  | .status.sealed = ($sealed | add // {}) + (.status.sealed // {})
else . end
