# The programs, each as one binary of its own derivation. With `static`, a binary for Linux needs no file of the store, as a
# release demands. Without, the compiler and the libraries are those that nixpkgs' cache has.
#
# One derivation compiles foreign crates, from the manifests of this workspace and an empty crate in place of each of its
# own crates. A second derivation continues with the shared crates, and the derivation of a program continues from both
# with the folder of that program. Therefore a change in one program compiles only that program, and so does a second
# build (`nix-store --realise --check`).
{ pkgs, static ? false }:
let
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) isLinux;

  # A program for macOS links the library of the system, which has no static form.
  platform = if static && isLinux then pkgs.pkgsStatic else pkgs;

  # Sources of one build: all manifests, and the contents of `folders`. Every build has all manifests, because the users of
  # a foreign crate together decide the features and the kind of linking with which cargo compiles that crate.
  source = folders: lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.difference
      (lib.fileset.unions ([ ../Cargo.toml ../Cargo.lock ../continuous-integration/tests/Cargo.toml (lib.fileset.fileFilter (file: file.name == "Cargo.toml") ./.) ] ++ folders))
      excluded;
  };
  # A program is built without tests, so that a change in a test or a line in a changelog builds no program again. `tests`
  # runs unit tests, and `tasks/test` all of them in the checkout.
  excluded = lib.fileset.unions ([ ./shared/testing/src ] ++ lib.concatMap (crate: map (name: lib.fileset.maybeMissing (crate + "/${name}")) [ "tests" "CHANGELOG.md" ]) crates);
  crates = map (path: ./. + "/${path}") (folders ./. ++ map (name: "shared/${name}") (folders ./shared) ++ map (name: "emulators/${name}") (folders ./emulators));
  folders = path: lib.attrNames (lib.filterAttrs (name: type: type == "directory" && builtins.pathExists (path + "/${name}/Cargo.toml")) (builtins.readDir path));

  # The set-up of tests, and the published crates that only tests need, are no part of a program.
  workspace = [ "--workspace" "--exclude" "testing" ];

  # All programs share this value, because Nix evaluates hundreds of derivations for it, one per crate.
  cargoDeps = platform.rustPlatform.importCargoLock { lockFile = ../Cargo.lock; };

  build = definition: platform.rustPlatform.buildRustPackage ({
    version = (lib.importTOML ../Cargo.toml).workspace.package.version;
    inherit cargoDeps;
    doCheck = false;
    # Measured: with `thin`, linking takes minutes for each program and for each second build. With `false`, which still
    # optimises across the parts of one crate, a second build takes 28.8 s of CPU time. With `off` it takes 18.6 s.
    env.CARGO_PROFILE_RELEASE_LTO = "off";
    # The copy of the crates has the time of this build. With the time that files of the store have, cargo does not repeat
    # the build scripts that an earlier derivation has run, and what depends on them.
    postPatch = ''
      find "$cargoDepsCopy" -exec touch --no-dereference --date=@1 {} +
      for manifest in $(find tools continuous-integration -name Cargo.toml); do
        crate=$(dirname "$manifest")/src
        [ -d "$crate" ] || { mkdir "$crate"; echo "//! Empty." >"$crate/lib.rs"; }
        # Without a build script, cargo would not compile the crates that it uses here, but again in each program.
        ! grep --quiet '^.build-dependencies.$' "$manifest" || [ -e "$crate/../build.rs" ] || echo "fn main() {}" >"$crate/../build.rs"
      done
    '';
  } // definition);

  dependencies = build {
    pname = "holistic-dependencies";
    src = source [ ];
    cargoBuildFlags = workspace;
    installPhase = "cp -r target $out";
    dontFixup = true; # only the compiler reads the result
  };

  # Fills `target` from the results of earlier derivations. Cargo compiles a crate whose sources are newer than its
  # results, and all files in the store have the same time, so `touch` makes the sources newer. Large libraries, a gigabyte
  # in total, become symbolic links. All other files are copied, because the compiler replaces the libraries of the empty
  # crates.
  continueFrom = before: ''
    mkdir -p target
    for built in ${toString before}; do
      (cd $built && find . -type f ! \( -name '*.r*' -size +64k \) -print0 | tar --null --files-from=- -cf -) | tar -C target -xf -
      chmod -R u+w target
      (cd $built && find . -type f -name '*.r*' -size +64k) | while read -r library; do ln -sf $built/$library target/$library; done
    done
    find tools -type f -exec touch {} +
  '';

  shared = build {
    pname = "holistic-shared";
    src = source [ ./shared ];
    cargoBuildFlags = workspace ++ [ "--lib" ];
    preBuild = continueFrom [ dependencies ] + "touch target/before";
    # Only files that `dependencies` does not have.
    installPhase = ''
      mkdir $out
      cd target
      find . -type f -newer before -exec cp --parents -t $out {} +
    '';
    dontFixup = true;
  };

  program = { name, folders, more ? { } }: build ({
    pname = name;
    src = source ([ ./shared ] ++ folders);
    cargoBuildFlags = workspace ++ [ "--lib" "--bin" name ];
    preBuild = continueFrom [ dependencies shared ] + "find tools/shared -type f -exec touch --date=@1 {} +";
    meta = {
      inherit ((lib.importTOML (./. + "/${name}/Cargo.toml")).package) description;
      mainProgram = name;
      license = [ lib.licenses.mit lib.licenses.asl20 ];
    };
  } // more);

  # data-drain restores with openat2(2) and reads /proc, which only Linux has.
  programs = [ "vcs-bootstrap" "artifact-attest" "talos-provision" "flux-seed" ] ++ lib.optional isLinux "data-drain";

  built = lib.genAttrs programs (name: program {
    inherit name;
    folders = [ (./. + "/${name}") ] ++ lib.optional (name == "talos-provision") ./talos-api;
  });

  # The lab validates overrides with the types of the programs, and the manual has the command lines of all of them and of the
  # lab. One derivation compiles these crates for both.
  lab = program {
    name = "lab";
    folders = crates;
    more = {
      outputs = [ "out" "manual" ];
      cargoBuildFlags = workspace ++ [ "--lib" "--bin" "lab" "--bin" "manual" ];
      postInstall = ''
        mkdir -p $manual/bin
        mv $out/bin/manual $manual/bin/
      '';
    };
  };

  # Contents of an image: a program, the commands that it runs, and a configuration that lets Git read a repository of another
  # user, because a container has only the repository that its user has mounted. The derivation is that of the program with
  # additions, so that artifact-attest's second build compiles the program again.
  image = name: commands: more: built.${name}.overrideAttrs (_: {
    pname = "${name}-image";
    postInstall = ''
      for command in ${toString commands}; do ln -s $command/bin/* $out/bin/; done
      mkdir $out/etc
      printf '[safe]\n\tdirectory = *\n' >$out/etc/gitconfig
    '' + more;
  });
  git = with pkgs; [ runtimeShellPackage gitMinimal git-lfs ];

  # The other programs run no command, so their images have the program alone.
  images = built // {
    vcs-bootstrap = image "vcs-bootstrap" git "";
    # Nix replaces a path of the store that its database does not have, and would so remove the libraries that it runs
    # with. Therefore its database gets the paths of the image first.
    artifact-attest =
      let commands = git ++ [ pkgs.nix ];
      in image "artifact-attest" commands ''
        mkdir $out/libexec
        mv $out/bin/artifact-attest $out/libexec/
        cat >$out/bin/artifact-attest <<END
        #!${lib.getExe' pkgs.runtimeShellPackage "sh"}
        nix-store --load-db <${pkgs.closureInfo { rootPaths = commands; }}/registration || exit
        exec $out/libexec/artifact-attest "\$@"
        END
        chmod +x $out/bin/artifact-attest
      '';
  };

  # Crates of each program, without compiling any.
  tree = build {
    pname = "holistic-tree";
    src = source [ ];
    buildPhase = "bash ${./release/tree.sh} ${platform.stdenv.hostPlatform.rust.rustcTarget} >tree";
    installPhase = "cp tree $out";
    dontFixup = true;
  };

  # Scripts that pack a release, with the files that they read.
  release = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [ ./release ../Cargo.lock ../LICENSE-APACHE ../LICENSE-MIT ];
  };

  # Manual pages and shell completions, generated from the command lines of all programs.
  manual = pkgs.runCommand "holistic-manual" { } ''
    ${lab.manual}/bin/manual $out
  '';

  # Unit tests, which need no component of the lab. They read documents, pages and sources of the whole repository.
  tests = build {
    pname = "holistic-tests";
    src = lib.cleanSource ../.;
    nativeCheckInputs = [ pkgs.gitMinimal ];
    buildPhase = ''
      runHook preBuild
      ${continueFrom [ dependencies ]}
      find continuous-integration -type f -exec touch {} +
      runHook postBuild
    '';
    doCheck = true;
    cargoTestFlags = [ "--workspace" "--lib" ];
    installPhase = "touch $out";
  };
in
{
  inherit dependencies images lab manual tests;

  programs = built;

  # Files of a release: for each program an archive, with its manual pages, completions and licences, and its bill of
  # materials; and the checksums.
  archives = pkgs.runCommand "holistic-archives" { nativeBuildInputs = [ pkgs.jq ]; } (''
    mkdir built
  '' + lib.concatStringsSep "" (lib.mapAttrsToList (name: program: ''
    ln -s ${lib.getExe program} built/
  '') built) + ''
    bash ${release}/tools/release/archive.sh built ${manual} ${tree} ${pkgs.stdenv.hostPlatform.system} $out ${toString programs}
  '');
}
