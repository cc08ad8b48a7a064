#!/usr/bin/env bash
# Prints the crates that are linked into the programs, as a tree: `tree.sh TARGET`. A line is the depth, the name, the version and
# the licence of a crate, such as `2serde v1.0.0|MIT OR Apache-2.0`.
# The packages are those of a build in default.nix, because the users of a crate together decide its features. Crates that
# only run on the machine of the build, which are build scripts and procedural macros, are no part of a program.
set -euo pipefail
cargo tree --frozen --workspace --exclude testing --target "$1" --edges normal,no-proc-macro --prefix depth --format '{p}|{l}' \
  | sed 's/ ([^|]*)|/|/' # the folder of a package of this workspace
