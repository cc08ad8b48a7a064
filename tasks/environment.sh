# Sourced by every task: where things are, and what a machine must have before anything can start.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
repository=$PWD
export LAB_CACHE=${LAB_CACHE:-$repository/.cache} LAB_DIR=${LAB_DIR:-$repository/.lab}
export LAB_BIN=$LAB_CACHE/bin
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$repository/target}
export GOTOOLCHAIN=local # a download would be refused, and another Go builds other bytes
# Of this repository's own test secrets; an identity of yours wins.
[ -n "${SOPS_AGE_KEY-}${SOPS_AGE_KEY_FILE-}" ] || export SOPS_AGE_KEY_FILE=$repository/project/test-identity.txt
export NIX_CONF_DIR=${NIX_CONF_DIR:-$LAB_DIR/nix}

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; say "  help: $2"; exit 1; }

# Rust and Go are the two things that no task can install by itself.
command -v cargo >/dev/null || fail "there is no cargo" "install Rust 1.89 or newer (https://rustup.rs), or run this task with Nix"
command -v git >/dev/null || fail "there is no git" "apt-get install git"

# Installs Debian's packages that bring what is missing: `need PROGRAM=PACKAGE…`.
need() {
  local missing=() pair
  for pair in "$@"; do command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}"); done
  [ "${#missing[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "this machine lacks ${missing[*]}" "install them (Debian: apt-get install ${missing[*]})"
  fi
  say "installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 \
    || fail "apt-get could not install ${missing[*]}" "read what it says above"
}

# Builds the programs and the lab, and puts them first on the path.
programs() {
  say "building the programs (cargo; a first time takes minutes)"
  cargo build --locked --quiet --workspace --bins
  export PATH=$CARGO_TARGET_DIR/debug:$LAB_BIN:$PATH
}
