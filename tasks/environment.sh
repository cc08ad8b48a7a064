# Sourced by every task: where things are, and what a machine must have before anything can start.
# Tasks are in a checkout, or in what Nix made of one. In a checkout they are about that checkout itself, from Nix
# about the repository in which they are started; HOLISTIC_PROJECT names another.
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; say "  help: $2"; exit 1; }

# The head of a task is its help; what `lab` can be told, it says itself.
case "${0##*/} ${1-}" in
  lab\ *) ;;
  *\ -h | *\ --help) sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; exit ;;
esac

built=${HOLISTIC_PROGRAMS-} # where the programs are, if they are built already: Nix says so in a file of its own
[ ! -e "$tools/tasks/nix.sh" ] || source "$tools/tasks/nix.sh"

# Git, Rust and Go are what no task can install by itself.
command -v git >/dev/null || fail "there is no git" "apt-get install git"
[ -n "$built" ] || command -v cargo >/dev/null || fail "there is no cargo" "install Rust 1.89 or newer (https://rustup.rs), or run this task with Nix"

repository=${HOLISTIC_PROJECT:-$tools}
if [ -n "$built" ] && [ -z "${HOLISTIC_PROJECT-}" ]; then
  repository=$(git rev-parse --show-toplevel) || fail "this is no Git repository" "run this where a project's documents are"
fi
cd "$repository" || exit 1
export LAB_CACHE=${LAB_CACHE:-$repository/.cache} LAB_DIR=${LAB_DIR:-$repository/.lab}
export LAB_BIN=$LAB_CACHE/bin LAB_COMPONENTS=$tools/continuous-integration/components
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tools/target}
export GOTOOLCHAIN=local # a download would be refused, and another Go builds other bytes
# Of the repository's published secrets, which are for the lab; `tasks/init` removes them, and an identity of yours wins.
if [ -z "${SOPS_AGE_KEY-}${SOPS_AGE_KEY_FILE-}" ] && [ -e "$repository/project/test-identity.txt" ]; then
  export SOPS_AGE_KEY_FILE=$repository/project/test-identity.txt
fi
# The lab's settings go with its stand-in for nixpkgs; a real nixpkgs brings its own settings.
[ -n "${LAB_NIXPKGS-}" ] || export NIX_CONF_DIR=${NIX_CONF_DIR:-$LAB_DIR/nix}

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

# Builds the programs and the lab, unless Nix has, and puts them first on the path.
programs() {
  if [ -z "$built" ]; then
    say "building the programs (cargo; a first time takes minutes)"
    cargo build --locked --quiet --workspace --bins --manifest-path "$tools/Cargo.toml"
  fi
  export PATH=${built:-$CARGO_TARGET_DIR/debug}:$LAB_BIN:$PATH
}
