#!/usr/bin/env bash
# Packs programs for a release: for each an archive with its manual pages, completions and licences, and a bill of materials,
# then the checksums of all files. Times, owners, modes and the order in an archive are constant, so that two builds give
# the same bytes.
#   archive.sh BUILT MANUAL TREE SYSTEM OUT PROGRAM…
# BUILT has the programs, MANUAL the files of the program `manual`, and TREE the output of tree.sh. OUT is created.
set -euo pipefail
built=$1 manual=$2 tree=$3 system=$4 out=$5
shift 5
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
root=$here/../..

# macOS has other programs under these names.
tar=$(type -P gtar || type -P tar)
sha256=$(type -P sha256sum || type -P shasum)
case "$sha256" in */shasum) sha256+=" --algorithm 256" ;; esac

mkdir -p "$out"
out=$(cd "$out" && pwd -P)
staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
for program; do
  archive=$program-$system.tar.gz
  folder=$staging/$program
  mkdir -p "$folder/bin" "$folder/share/doc/$program"
  cp -L "$built/$program" "$folder/bin/"
  (cd "$manual" && find . -type f \( -name "$program.*" -o -name "$program-*" -o -name "$program" -o -name "_$program" \)) \
    | "$tar" -C "$manual" --files-from=- -cf - | "$tar" -C "$folder" -xf -
  cp "$root/LICENSE-APACHE" "$root/LICENSE-MIT" "$folder/share/doc/$program/"
  "$tar" -C "$folder" --format=gnu --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - bin share \
    | gzip --no-name --best >"$out/$archive"
  digest=$($sha256 "$out/$archive" | cut -d ' ' -f 1)
  jq --null-input --raw-input --from-file "$here/bill.jq" --arg program "$program" --arg archive "$archive" --arg sha256 "$digest" \
    --rawfile lock "$root/Cargo.lock" "$tree" >"$out/$program-$system.cdx.json"
done
cd "$out"
$sha256 ./*.tar.gz ./*.cdx.json | sed 's|\./||' >"SHA256SUMS-$system"
