#!/usr/bin/env bash
# Builds the programs that run on macOS, and packs them for a release: `macos.sh LINUX OUT`. LINUX has the archives for Linux,
# from which the manual pages and completions are taken, because the program that writes them does not run on macOS.
#
# cargo builds with Apple's SDK: Nix would link libraries of its store, which other machines do not have. data-drain is left
# out: its restore relies on openat2(2), with which Linux confines the paths of an archive to a folder, and its lease on /proc.
set -euo pipefail
mkdir -p "$2"
linux=$(cd "$1" && pwd -P) out=$(cd "$2" && pwd -P)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export RUSTUP_TOOLCHAIN=1.95.0 # another version would give other bytes
export MACOSX_DEPLOYMENT_TARGET=11.0 # the first macOS on Apple silicon
target=aarch64-apple-darwin
programs="artifact-attest flux-seed talos-provision vcs-bootstrap"

rustup toolchain install "$RUSTUP_TOOLCHAIN" --profile minimal --no-self-update
export CARGO_PROFILE_RELEASE_LTO=off # as in default.nix
# The folders of the build are no part of a program.
export RUSTFLAGS="--remap-path-prefix=$PWD=/build --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
cargo fetch --locked
# shellcheck disable=SC2046,SC2086
cargo build --frozen --release --target "$target" --workspace --exclude testing $(printf -- '--bin %s ' $programs)

staging=$(mktemp -d)
trap 'rm -rf "$staging"' EXIT
for program in $programs; do tar -xzf "$linux/$program-x86_64-linux.tar.gz" -C "$staging" share; done
tools/release/tree.sh "$target" >"$staging/tree"
# shellcheck disable=SC2086
tools/release/archive.sh "${CARGO_TARGET_DIR:-target}/$target/release" "$staging" "$staging/tree" aarch64-darwin "$out" $programs
