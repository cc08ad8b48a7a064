# Every task sources this file. It sets paths and checks that the machine has git and cargo.
# A task in a checkout works on that checkout. A task that Nix has built works on the repository in which it is started.
# HOLISTIC_PROJECT sets another repository.
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $1"; say "  help: $2"; exit 1; }

# `--help` prints the comment at the head of the task. `lab` has a help of its own.
case "${0##*/} ${1-}" in
  lab\ *) ;;
  *\ -h | *\ --help) sed -n '2,/^[^#]/ s/^# \{0,1\}//p' "$0"; exit ;;
esac

built=${HOLISTIC_PROGRAMS-} # folder of the programs if they are already built; Nix sets it in nix.sh
[ ! -e "$tools/tasks/nix.sh" ] || source "$tools/tasks/nix.sh"

source "$tools/tasks/requirements.sh"
# A task cannot install git and Rust, so it checks them first. These two tasks check all of their requirements at once.
case "${0##*/}" in
  lifecycle | test) ;;
  *)
    command -v git >/dev/null || fail "git is not installed" "install git (Debian: apt-get install git)"
    [ -n "$built" ] || command -v cargo >/dev/null || fail "cargo is not installed" "install Rust 1.89 or newer (https://rustup.rs), or run this task with Nix"
    ;;
esac

repository=${HOLISTIC_PROJECT:-$tools}
if [ -n "$built" ] && [ -z "${HOLISTIC_PROJECT-}" ]; then
  repository=$(git rev-parse --show-toplevel) || fail "$PWD is not in a Git repository" "run this task in the repository of a project"
fi
cd "$repository" || exit 1
export LAB_CACHE=${LAB_CACHE:-$repository/.cache} LAB_DIR=${LAB_DIR:-$repository/.lab}
export LAB_BIN=$LAB_CACHE/bin LAB_COMPONENTS=$tools/continuous-integration/components
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$tools/target}
# An incremental build takes 100 instead of 72 CPU seconds for our crates, and a build after a change 5 instead of 12. The
# second matters where cargo has built incrementally, which only a developer does.
[ -n "$built" ] || compgen -G "$CARGO_TARGET_DIR/debug/incremental/*" >/dev/null || export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}
export GOTOOLCHAIN=local # by default Go may download another version (https://go.dev/doc/toolchain), which builds other bytes
# The published identity decrypts the published secrets, which are for the lab. `tasks/init` removes it, and an identity
# that is already in the environment has priority.
if [ -z "${SOPS_AGE_KEY-}${SOPS_AGE_KEY_FILE-}" ] && [ -e "$repository/project/test-identity.txt" ]; then
  export SOPS_AGE_KEY_FILE=$repository/project/test-identity.txt
fi
# The lab writes Nix settings for its stand-in for nixpkgs. With a real nixpkgs the settings of the machine apply.
[ -n "${LAB_NIXPKGS-}" ] || export NIX_CONF_DIR=${NIX_CONF_DIR:-$LAB_DIR/nix}

# Asks before a task destroys resources: `confirm TEXT ARGUMENT…`. The argument `--yes` answers the question. Without a
# terminal there is no answer, so a script needs the argument.
confirm() {
  local text=$1 answer=
  shift
  case "$*" in
    "") ;;
    --yes) return 0 ;;
    *) fail "unknown arguments: $*" "run ${0##*/} --help" ;;
  esac
  say "$text"
  [ -t 0 ] && [ -t 2 ] || fail "the destruction is not confirmed, so nothing was changed" "add --yes, or run this task on a terminal"
  read -r -p "Continue? [y/N] " answer || true
  case "$answer" in
    y | Y | yes) ;;
    *) fail "the destruction is not confirmed, so nothing was changed" "answer y, or add --yes" ;;
  esac
}

# Installs the Debian packages of missing programs: `need PROGRAM=PACKAGE…`.
need() {
  local missing=() pair
  for pair in "$@"; do command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}"); done
  [ "${#missing[@]}" -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    fail "this machine lacks ${missing[*]}" "install them (Debian: apt-get install ${missing[*]})"
  fi
  say "installing ${missing[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >&2 \
    || fail "apt-get could not install ${missing[*]}" "read the output of apt-get above"
}

# Builds the programs and the lab, unless they are already built, and puts them first in PATH.
programs() {
  if [ -z "$built" ]; then
    local stamp=$CARGO_TARGET_DIR/debug/built # has the time of the last build
    if [ ! -e "$stamp" ]; then
      say "building the programs with cargo; the first build takes minutes"
    elif [ -n "$(find "$tools/tools" "$tools/Cargo.lock" -newer "$stamp" \( -name '*.rs' -o -name 'Cargo.*' \) -print -quit)" ]; then
      say "building the programs with cargo"
    fi
    cargo build --locked --quiet --workspace --bins --manifest-path "$tools/Cargo.toml"
    touch "$stamp"
  fi
  export PATH=${built:-$CARGO_TARGET_DIR/debug}:$LAB_BIN:$PATH
}
