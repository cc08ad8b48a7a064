{
  description = "One Git repository that bootstraps itself into full deployment, and back";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = builtins.filter (it: nixpkgs.legacyPackages ? ${it}) [ "x86_64-linux" "aarch64-linux" ];
      eachSystem = f: lib.genAttrs systems (system:
        let pkgs = nixpkgs.legacyPackages.${system}; in f { inherit system pkgs; tools = import ./tools { inherit pkgs; }; });
      folders = path: lib.attrNames (lib.filterAttrs (_: type: type == "directory") (builtins.readDir path));

      # A source is a flake of its own. Here it is given this one's nixpkgs: as an input it would be locked with the
      # hash of what it was, and an edit would go unnoticed.
      sources = lib.genAttrs (folders ./sources)
        (name: let it = (import (./sources + "/${name}/flake.nix")).outputs { self = it; inherit nixpkgs; }; in it);
      ofSources = output: system: lib.mapAttrs (_: it: it.${output}.${system}) sources;

      app = program: { type = "app"; inherit program; };

      # For work on this repository. Rust and Go are what everything here is built with.
      development = pkgs: with pkgs; [ act actionlint age cargo cargo-deny clippy go gcc jq kubectl openssl python3 rustc rustfmt sops ];
    in
    {
      # Each program alone, each source, the lab, and all of it together.
      packages = eachSystem ({ system, pkgs, tools }:
        tools.programs
        // lib.mapAttrs (_: it: it.default) (ofSources "packages" system)
        // { inherit (tools) lab manual; default = import ./tasks { inherit pkgs tools nixpkgs; }; });

      # Tasks are about the repository in which they are started.
      apps = eachSystem ({ system, pkgs, tools }:
        let
          holistic = self.packages.${system}.default;
          task = name: app "${holistic}/tasks/${name}";
        in
        lib.mapAttrs (_: it: app (lib.getExe it)) tools.programs
        // lib.genAttrs [ "init" "lifecycle" "sunset" "reconstruct" "lab" ] task
        // {
          default = task "lifecycle";
          test = app (lib.getExe (pkgs.writeShellApplication {
            name = "test";
            runtimeInputs = development pkgs;
            text = ''exec ${holistic}/tasks/test "$@"'';
          }));
        });

      devShells = eachSystem ({ pkgs, ... }: { default = pkgs.mkShell { packages = development pkgs; }; });

      checks = eachSystem ({ system, pkgs, tools }:
        tools.programs
        // lib.concatMapAttrs (source: checks: lib.mapAttrs' (name: it: lib.nameValuePair "${source}-${name}" it) checks) (ofSources "checks" system)
        // {
          inherit (tools) lab manual;
          format = pkgs.runCommand "format" { nativeBuildInputs = [ pkgs.cargo pkgs.rustfmt ]; } ''
            export CARGO_HOME=$PWD
            cd ${self}
            cargo fmt --all --check
            touch $out
          '';
        });

      hydraJobs = eachSystem ({ system, ... }: self.checks.${system});

      # Without nixpkgs, so that `nix flake init` need not fetch it.
      templates = builtins.mapAttrs (name: description: { path = ./templates + "/${name}"; inherit description; }) {
        source = "A source: a Rust service without dependencies, and the Artifact it is published as";
        cluster = "A cluster: its machines at Hetzner, with Talos and Kubernetes";
        deployment = "A deployment: manifests, published signed, and Flux that accepts nothing else";
        decision = "A decision record";
      } // {
        project = {
          path = ./templates/project;
          description = "A whole project: documents, a source, manifests; ./tasks/lifecycle runs it in the lab";
          # Measured: Nix 2.8 forgets which files may be run.
          welcomeText = ''
            Nix writes files, but not that some are there to be run. So, in an empty repository:

                git init --initial-branch=main && chmod +x tasks/* && git add --all && git commit --message "From the template"
                ./tasks/lifecycle
          '';
        };
      };
    };
}
