# Puts PROGRAM in PATH. run.sh sources this file.
#
# Environment:
#   VERSION         a release such as v1.2.3, `latest`, or `source`; empty for the default
#   REPOSITORY      the repository of the action, if it is not the one of the job
#   REF             the ref of the action there
#   RELEASE_TOKEN   a token with which gh reads attestations
#
# The default is the program in PATH. Without it, an action of another repository takes the release that the action's ref
# names, otherwise the latest one, and an action of the job's own repository is built with Nix from its commit.

refuse() { # CAUSE HELP
  error "$PROGRAM" "$1; $2"
  exit 100
}

# The first release of gh with `--source-ref`. Until 2.66 gh accepted a file without any attestation
# (https://pkg.go.dev/vuln/GO-2025-3467).
gh_version=2.68.0

# Downloads a release, and verifies that the workflow of the release made it
# (https://cli.github.com/manual/gh_attestation_verify).
install_release() { # VERSION
  local version=$1 system installed archive url found refs=()
  case "${RUNNER_OS-}-${RUNNER_ARCH-}" in
    Linux-X64) system=x86_64-linux ;;
    Linux-ARM64) system=aarch64-linux ;;
    # Releases have programs for macOS, but the actions need the commands of Linux.
    *) refuse "actions run on Linux on x86-64 and arm64, and this runner is ${RUNNER_OS:-an unknown system} on ${RUNNER_ARCH:-an unknown processor}" "use a Linux runner, or install the program before this step" ;;
  esac
  found=$(gh --version 2>/dev/null | sed -n 's/^gh version \([0-9.]*\).*/\1/p') || found=
  [ "$(printf '%s\n%s\n' "$gh_version" "$found" | sort --version-sort | head -n 1)" = "$gh_version" ] \
    || refuse "gh ${found:-is missing, and it} cannot verify the release" "install gh $gh_version or newer, as on GitHub's runners, or install the program before this step"

  # A later step of the job takes the same file. RUNNER_TEMP is empty when a job begins, so no other job can have put a file there.
  installed=$RUNNER_TEMP/installed/$REPOSITORY/$version/bin
  if [ -x "$installed/$PROGRAM" ]; then
    PATH=$installed:$PATH
    return
  fi

  archive=$PROGRAM-$system.tar.gz
  if [ "$version" = latest ]; then
    url=$GITHUB_SERVER_URL/$REPOSITORY/releases/latest/download/$archive
  else
    url=$GITHUB_SERVER_URL/$REPOSITORY/releases/download/$version/$archive
    refs=(--source-ref "refs/tags/$version")
  fi
  curl --silent --show-error --fail --location --retry 3 --max-time 300 --output "$folder/$archive" "$url" \
    || refuse "$url cannot be downloaded" "check the input \`version\` and the releases of $REPOSITORY"
  # The token belongs to the job, and only gh gets it.
  GH_TOKEN=$RELEASE_TOKEN gh attestation verify "$folder/$archive" --repo "$REPOSITORY" "${refs[@]}" \
    --signer-workflow "$REPOSITORY/.github/workflows/release.yaml" >"$folder/attestation" 2>&1 \
    || refuse "the attestation of $archive does not verify: $(tail -n 1 "$folder/attestation")" "do not use this file; check the input \`version\`, and report the release to $REPOSITORY"
  tar --extract --gzip --file "$folder/$archive" --directory "$folder" "bin/$PROGRAM"
  mkdir -p "$installed"
  mv "$folder/bin/$PROGRAM" "$installed"
  PATH=$installed:$PATH
}

install_source() {
  command -v nix >/dev/null \
    || refuse "$PROGRAM is not in PATH, and Nix, which would build it from the repository, is missing" "install Nix before this step, or set the input \`version\` to a release"
  local flake=${GITHUB_ACTION_PATH%/continuous-integration/*} built
  built=$(nix --extra-experimental-features 'nix-command flakes' build --no-link --json "$flake#$PROGRAM")
  PATH=$(jq --raw-output '.[0].outputs.out' <<<"$built")/bin:$PATH
}

case "${VERSION-}" in
  "")
    if command -v "$PROGRAM" >/dev/null; then :
    elif [ -z "${REPOSITORY-}" ]; then install_source
    elif [[ ${REF-} =~ ^v[0-9]+\.[0-9]+\.[0-9]+$ ]]; then install_release "$REF"
    else install_release latest
    fi
    ;;
  source) install_source ;;
  latest | v[0-9]*) install_release "$VERSION" ;;
  *) refuse "the input \`version\` is \`$VERSION\`" "write a release such as v1.2.3, \`latest\` or \`source\`" ;;
esac
unset RELEASE_TOKEN VERSION REPOSITORY REF
