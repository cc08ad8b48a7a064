# The programs, each as one static binary of its own derivation.
#
# The crates of others are compiled once, in a derivation that has this workspace's manifests and nothing else:
# in place of every crate of ours is an empty one. The crates that all programs share go on from there, in a
# derivation of their own, and a program from both, with its folder in place of the empty one. So a change in one program
# compiles that program, and a second build of it (`nix-store --realise --check`) compiles it again, and no other crate.
{ pkgs }:
let
  inherit (pkgs) lib;

  # Every crate of the workspace takes part in each build, since all that use a crate of others decide together with
  # which features it is compiled, and for which kind of linking; but of most of them only the manifest.
  source = folders: lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.difference
      (lib.fileset.unions ([ ../Cargo.toml ../Cargo.lock ../continuous-integration/tests/Cargo.toml (lib.fileset.fileFilter (it: it.name == "Cargo.toml") ./.) ] ++ folders))
      tests;
  };
  # Tests run in the checkout (tasks/test): most need the lab, and none decides what a program is.
  tests = lib.fileset.unions (map (it: lib.fileset.maybeMissing (it + "/tests")) crates);
  crates = map (it: ./. + "/${it}") (folders ./. ++ map (it: "shared/${it}") (folders ./shared) ++ map (it: "emulators/${it}") (folders ./emulators));
  folders = path: lib.attrNames (lib.filterAttrs (name: type: type == "directory" && builtins.pathExists (path + "/${name}/Cargo.toml")) (builtins.readDir path));

  # Hundreds of derivations, one for each crate: evaluated once for all programs.
  cargoDeps = pkgs.pkgsStatic.rustPlatform.importCargoLock { lockFile = ../Cargo.lock; };

  build = definition: pkgs.pkgsStatic.rustPlatform.buildRustPackage ({
    version = (lib.importTOML ../Cargo.toml).workspace.package.version;
    inherit cargoDeps;
    doCheck = false;
    # Measured: with `thin`, as cargo's releases have it, each program takes minutes to link, and each second build again;
    # with `false`, where the parts of one crate are still optimised together, a second build takes 28.8 s of CPU, now 18.6.
    env.CARGO_PROFILE_RELEASE_LTO = "off";
    postPatch = ''
      for manifest in $(find tools continuous-integration -name Cargo.toml); do
        crate=$(dirname "$manifest")/src
        [ -d "$crate" ] || { mkdir "$crate"; echo "//! Nothing." >"$crate/lib.rs"; }
        # Without a build script, cargo would not compile the crates that it uses here, but again in each program.
        ! grep --quiet '^.build-dependencies.$' "$manifest" || [ -e "$crate/../build.rs" ] || echo "fn main() {}" >"$crate/../build.rs"
      done
    '';
  } // definition);

  dependencies = build {
    pname = "holistic-dependencies";
    src = source [ ];
    cargoBuildFlags = [ "--workspace" ];
    installPhase = "cp -r target $out";
    dontFixup = true; # it is read by the compiler alone
  };

  # Everything in the store has the same age: what is compiled here must be newer than what is not. A gigabyte of
  # libraries stays where it is. Empty ones are copied: the compiler puts what it makes of our crates in their place.
  goOn = before: ''
    mkdir -p target
    for built in ${toString before}; do
      (cd $built && find . -type f ! \( -name '*.r*' -size +64k \) -print0 | tar --null --files-from=- -cf -) | tar -C target -xf -
      chmod -R u+w target
      (cd $built && find . -type f -name '*.r*' -size +64k) | while read -r it; do ln -sf $built/$it target/$it; done
    done
    find tools -type f -exec touch {} +
  '';

  shared = build {
    pname = "holistic-shared";
    src = source [ ./shared ];
    cargoBuildFlags = [ "--workspace" "--lib" ];
    preBuild = goOn [ dependencies ] + "touch target/before";
    # What is not in `dependencies`.
    installPhase = ''
      mkdir $out
      cd target
      find . -type f -newer before -exec cp --parents -t $out {} +
    '';
    dontFixup = true;
  };

  program = { name, description, folders }: build {
    pname = name;
    src = source ([ ./shared ] ++ folders);
    cargoBuildFlags = [ "--workspace" "--lib" "--bin" name ];
    preBuild = goOn [ dependencies shared ] + "find tools/shared -type f -exec touch --date=@1 {} +";
    meta = {
      inherit description;
      mainProgram = name;
      license = [ lib.licenses.mit lib.licenses.asl20 ];
    };
  };

  own = name: ownWith name [ ];
  ownWith = name: others: program {
    inherit name;
    inherit ((lib.importTOML (./. + "/${name}/Cargo.toml")).package) description;
    folders = [ (./. + "/${name}") ] ++ others;
  };
in
{
  inherit dependencies;

  programs = lib.genAttrs [ "vcs-bootstrap" "artifact-attest" "flux-seed" "data-drain" ] own
    // { talos-provision = ownWith "talos-provision" [ ./talos-api ]; };

  lab = ownWith "lab" [ ./emulators ./talos-api ];

  # Manual pages and shell completions, out of the command lines of all of them.
  manual = pkgs.runCommand "holistic-manual" { } ''
    ${lib.getExe (program { name = "manual"; description = "Writes manual pages and shell completions"; folders = crates; })} $out
  '';
}
