# Writes the bill of materials of a program, in the CycloneDX format (https://cyclonedx.org/docs/1.6/json/), from the lines of
# tree.sh. It depends on nothing but its input, so that two runs give the same bytes.
# Arguments: $program; $archive, the name of the archive with the program; $sha256 of the archive; $lock, the text of Cargo.lock.
# The standard library of Rust and the C library of the system are in no lock, so the bill says that it is incomplete.

# SHA-256 of each crate's archive, by name and version.
([$lock | split("[[package]]\n")[]
    | capture("^name = \"(?<name>.+)\"\nversion = \"(?<version>.+)\"\nsource = .+\nchecksum = \"(?<checksum>[0-9a-f]{64})\"")]
  | map({key: "\(.name) \(.version)", value: .checksum}) | from_entries) as $checksums
| def crate: # of a line; cargo writes ` (*)` at its end if the crates below it are listed elsewhere
    capture("^(?<depth>\\d+)(?<name>\\S+) v(?<version>\\S+)\\|(?<license>.*?)( \\(\\*\\))?$")
    | .depth |= tonumber
    | .id = "\(.name) \(.version)";
  def licenses: # cargo's old form `MIT/Apache-2.0` is no expression of SPDX
    if . == "" then {}
    elif contains("/") then {licenses: [{license: {name: ., acknowledgement: "declared"}}]}
    else {licenses: [{expression: ., acknowledgement: "declared"}]}
    end;
  def component($type):
    $checksums[.id] as $checksum
    | {type: $type, "bom-ref": .id, name, version}
    + if $checksum then
        {purl: "pkg:cargo/\(.name)@\(.version | @uri)", hashes: [{alg: "SHA-256", content: $checksum}]}
      else {} end
    + (.license | licenses);
  reduce (inputs | select(. != "") | crate) as $crate ({path: [], crates: {}, needs: {}};
    .path = .path[:$crate.depth] + [$crate.id]
    | .crates[$crate.id] = $crate
    | .needs[$crate.id] += {}
    | if $crate.depth > 0 then .needs[.path[-2]][$crate.id] = true else . end)
| . as {$crates, $needs}
| (first($crates[] | select(.name == $program)) // error("the tree has no package \($program)")) as $root
| ({reached: {($root.id): true}, open: [$root.id]}
  | until(.open == [];
      .reached as $reached
      | [.open[] | $needs[.] | keys[]] | unique | map(select($reached[.] | not)) as $new
      | {reached: ($reached + ($new | map({key: ., value: true}) | from_entries)), open: $new})
  | .reached | keys) as $reached
| {
    bomFormat: "CycloneDX",
    specVersion: "1.6",
    # Version 8 of a UUID, whose content is free (RFC 9562).
    serialNumber: ($sha256 | "urn:uuid:\(.[0:8])-\(.[8:12])-8\(.[13:16])-8\(.[17:20])-\(.[20:32])"),
    version: 1,
    metadata: {
      lifecycles: [{phase: "build"}],
      component: ($root | component("application") + {externalReferences: [
        {type: "distribution", url: $archive, hashes: [{alg: "SHA-256", content: $sha256}]},
        {type: "vcs", url: "https://github.com/zabronax/holistic"}
      ]}),
      supplier: {name: "holistic", url: ["https://github.com/zabronax/holistic"]}
    },
    components: [$reached[] | select(. != $root.id) | $crates[.] | component("library")],
    dependencies: [$reached[] | {ref: ., dependsOn: ($needs[.] | keys)}],
    compositions: [{aggregate: "incomplete", assemblies: [$root.id]}]
  }
