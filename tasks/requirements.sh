# Checks that this machine can run a task, and lists everything that is missing at once, before a build begins.
# environment.sh sources this file; `tasks/lifecycle` and `tasks/test` call `requirements`.

# Figures in MiB, measured on Debian 12 with two cores in November 2026, and rounded up. They are estimates: caches may
# hold a part already, and builds differ. So a task refuses a machine only if it has less than half of such a figure, and
# warns if it has less than the whole.
programs_mib=3300  # target, after cargo has built the programs
tests_mib=14000    # target, after cargo has built the programs and the tests
component_mib=200  # .cache, for each component
go_mib=2000        # Go's caches, for each component: six components took 12 GB
memory_mib=4096    # the services of the lab take 1,700 MiB after a lifecycle, and rustc up to 800 MiB per core
meminfo=${MEMINFO:-/proc/meminfo} # a test names another file

# Programs and their Debian packages: those that the lab installs (tools/lab/src/install.rs), and those of tasks/test.
lab_packages="docker-registry=docker-registry git=git jq=jq setsid=util-linux age=age nix=nix-bin gcc=gcc tar=tar containerd=containerd crun=crun host-local=containernetworking-plugins ip=iproute2 unshare=util-linux python3=python3 xz=xz-utils"
test_packages="curl=curl git-lfs=git-lfs iptables=iptables newuidmap=uidmap npm=npm openssl=openssl podman=podman zstd=zstd"

# requirements TASK [COMPONENT…]: ends the task if something is missing. Without a component, nothing of the lab is needed.
requirements() {
  local task=$1 missing=() scarce=() installable=() unbuilt=() component pair found where
  local -A need_mib=() parts=()
  shift
  entry() { printf '  %-9s %s\n            help: %s' "$1" "$2" "$3"; }
  lacks() { missing+=("$(entry "$@")"); }
  # estimate NAME HAVE WANT TEXT HELP
  estimate() {
    if [ "$2" -lt $(($3 / 2)) ]; then lacks "$1" "$4" "$5"; elif [ "$2" -lt "$3" ]; then scarce+=("$(entry "$1" "$4" "$5")"); fi
  }
  at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; } # HAVE WANT

  if [ $# -gt 0 ] && [ "$(id -u)" != 0 ]; then
    lacks root "this is user $(id -u), and the machines of the lab run containers, which takes root" \
      "run this task as root, for example with sudo$(without_root "$task")"
  fi
  command -v git >/dev/null || lacks git "is not installed" "install git (Debian: apt-get install git)"

  if [ -z "$built" ]; then
    local rust
    rust=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$tools/Cargo.toml")
    found=$(cargo --version 2>/dev/null | cut -d' ' -f2) || found=
    if [ -z "$found" ]; then
      lacks cargo "is not installed, and Rust $rust or newer is needed" "install Rust (https://rustup.rs), or run this task with Nix"
    elif ! at_least "$found" "$rust"; then
      lacks cargo "$found is installed, and Rust $rust or newer is needed" "rustup update (Debian's own Rust may be too old: https://rustup.rs)"
    fi
    # A target that has the programs only grows by what has changed.
    if [ ! -x "$CARGO_TARGET_DIR/debug/lab" ]; then
      if [ "$task" = test ]; then disk "$CARGO_TARGET_DIR" "$tests_mib" target; else disk "$CARGO_TARGET_DIR" "$programs_mib" target; fi
    fi
  fi

  for component in "$@"; do
    [ -d "${LAB_BUILT:+$LAB_BUILT/$component}" ] || compgen -G "$LAB_CACHE/components/$component/*" >/dev/null || unbuilt+=("$component")
  done
  if [ "${#unbuilt[@]}" -gt 0 ]; then
    local go='' version
    for component in "${unbuilt[@]}"; do
      version=$(sed -n 's/^go //p' "$LAB_COMPONENTS/$component/go.mod")
      [ -n "$go" ] && at_least "$go" "$version" || go=$version
    done
    found=$(go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p') || found=
    if [ -z "$found" ]; then
      lacks go "is not installed, and Go $go or newer builds ${unbuilt[*]}" "install Go (https://go.dev/dl)"
    elif ! at_least "$found" "$go"; then
      lacks go "$found is installed, and Go $go or newer builds ${unbuilt[*]}" "install Go $go (https://go.dev/dl; Debian's own Go may be too old)"
    fi
    disk "$LAB_CACHE" $((component_mib * ${#unbuilt[@]})) .cache
    disk "${GOCACHE:-$HOME/.cache/go-build}" $((go_mib * ${#unbuilt[@]} / 2)) "Go's build cache"
    disk "${GOMODCACHE:-${GOPATH:-$HOME/go}/pkg/mod}" $((go_mib * ${#unbuilt[@]} / 2)) "Go's modules"
  fi
  local mount free
  for mount in "${!need_mib[@]}"; do
    free=$(df --output=avail --block-size=1M "$mount" | tail -n 1 | tr -d ' ')
    estimate disk "$free" "${need_mib[$mount]}" \
      "$mount has $free MiB free, and the build takes about ${need_mib[$mount]} MiB (${parts[$mount]})" \
      "free space, or set CARGO_TARGET_DIR, LAB_CACHE, GOCACHE and GOMODCACHE to folders of another disk"
  done

  if [ $# -gt 0 ]; then
    local key value wanted=$lab_packages
    [ "$task" != test ] || wanted+=" $test_packages"
    while read -r key value _; do [ "$key" != MemAvailable: ] || free=$((value / 1024)); done <"$meminfo"
    # A lab that exists may run already, and then its services have their memory.
    [ -e "$LAB_DIR/made-by-lab" ] || estimate memory "$free" "$memory_mib" \
      "$free MiB are available, and about $memory_mib MiB are needed" "end other programs, or use a larger machine"
    # The lab looks in the same folders: Debian's PATH of an ordinary user lacks the folders `sbin`.
    where=$PATH:/usr/sbin:/sbin:${CNI_PATH-}:/usr/lib/cni
    for pair in $wanted; do
      PATH=$where command -v "${pair%=*}" >/dev/null && continue
      [[ " ${installable[*]-} " == *" ${pair#*=} "* ]] || installable+=("${pair#*=}")
    done
    if [ "${#installable[@]}" -gt 0 ] && { [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; }; then
      local own_registry=''
      [[ " ${installable[*]} " != *" docker-registry "* ]] \
        || own_registry="; afterwards \`systemctl disable --now docker-registry\`, because Debian's own registry uses port 5000 of every address"
      lacks packages "not installed: ${installable[*]}" "install them (Debian, as root: apt-get install ${installable[*]}$own_registry)"
    fi
  fi

  if [ "${#missing[@]}" -gt 0 ]; then
    say "error: this machine lacks ${#missing[@]} of the requirements of tasks/$task, and nothing was built"
    printf '%s\n' "${missing[@]}" >&2
    exit 1
  fi
  if [ "${#scarce[@]}" -gt 0 ]; then
    say "warning: this machine may be too small for tasks/$task"
    printf '%s\n' "${scarce[@]}" >&2
  fi
  if [ "${#unbuilt[@]}" -gt 0 ]; then
    say "to build: ${#unbuilt[@]} components (${unbuilt[*]}), after the programs; to install: ${installable[*]:-nothing}"
  fi
}

# without_root TASK: what works for a user without privileges, as further lines of the help.
without_root() {
  local line lines=()
  case $1 in
    lifecycle)
      lines=(
        "without root, a lab without machines works: a forge, a registry, an object store and Hetzner's API,"
        "for which git, jq, age, docker-registry, gcc, Rust and Go are enough:"
        "  tasks/shell sh -c 'lab up project | vcs-bootstrap apply'"
        "  tasks/shell sh -c 'lab up project sources | vcs-bootstrap apply | artifact-attest apply' # builds with Nix"
        "  tasks/lab status"
        "  tasks/lab down --wipe"
      )
      ;;
    test) lines=("without root, \`tasks/test quick\` runs every check that needs no component") ;;
  esac
  for line in "${lines[@]}"; do printf '\n            %s' "$line"; done
}

# disk FOLDER MIB NAME: adds to the need of the file system of FOLDER, which need not exist yet. A folder that exists
# needs less by its present size.
disk() {
  local folder=$1 mib=$2 held=0 mount
  [ ! -e "$folder" ] || held=$(du --summarize --block-size=1M "$folder" | cut -f1)
  mib=$((mib > held ? mib - held : 0))
  while [ ! -e "$folder" ]; do folder=$(dirname "$folder"); done
  mount=$(df --output=target "$folder" | tail -n 1)
  need_mib[$mount]=$((${need_mib[$mount]:-0} + mib))
  parts[$mount]="${parts[$mount]:+${parts[$mount]}, }$3 $mib"
}
