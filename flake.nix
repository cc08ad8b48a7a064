{
  description = "One Git repository that bootstraps itself into full deployment, and back";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      each = systems: f: lib.genAttrs (builtins.filter (system: nixpkgs.legacyPackages ? ${system}) systems) (system:
        let pkgs = nixpkgs.legacyPackages.${system};
        in f { inherit system pkgs; tools = import ./tools { inherit pkgs; }; released = import ./tools { inherit pkgs; static = true; }; });
      eachSystem = each [ "x86_64-linux" "aarch64-linux" ];
      # The lab runs on Linux, so macOS has programs alone.
      eachMac = each [ "aarch64-darwin" ];
      folders = path: lib.attrNames (lib.filterAttrs (_: type: type == "directory") (builtins.readDir path));

      # A source is a flake of its own, imported here with this flake's nixpkgs. As a flake input the source would be
      # locked with a hash, and edits would have no effect.
      sources = lib.genAttrs (folders ./sources)
        (name: let source = (import (./sources + "/${name}/flake.nix")).outputs { self = source; inherit nixpkgs; }; in source);
      ofSources = output: system: lib.mapAttrs (_: source: source.${output}.${system}) sources;

      app = description: program: { type = "app"; inherit program; meta = { inherit description; }; };
      appsOf = tools: lib.mapAttrs (_: program: app program.meta.description (lib.getExe program)) tools.programs;

      # Tools of a developer. Rust builds the programs, and Go builds components of the lab.
      development = pkgs: with pkgs; [ act actionlint age cargo cargo-deny cargo-nextest clippy go gcc git-lfs jq kubectl nodejs openssl (python3.withPackages (modules: [ modules.cyclonedx-python-lib modules.jsonschema-rs ])) rustc rustfmt sops zizmor ];
    in
    {
      # Each program, the contents of images, each source, the lab and the manual. `default` contains all programs and the tasks.
      packages = eachSystem ({ system, pkgs, tools, released }:
        tools.programs
        // lib.mapAttrs' (name: lib.nameValuePair "${name}-image") released.images
        // lib.mapAttrs (_: packages: packages.default) (ofSources "packages" system)
        // { inherit (released) archives; inherit (tools) lab manual; default = import ./tasks { inherit pkgs tools nixpkgs; }; })
        // eachMac ({ tools, ... }: tools.programs);

      # A task works on the repository in which it is started.
      apps = eachSystem ({ system, pkgs, tools, ... }:
        let
          holistic = self.packages.${system}.default;
          tasks = lib.mapAttrs (name: description: app description "${holistic}/tasks/${name}") {
            init = "Creates an identity, a root and .sops.yaml, and writes your names into the documents";
            lifecycle = "Applies the repository's own documents to a lab on this machine";
            sunset = "Copies the data, proves the copy, and destroys every resource in the lab";
            reconstruct = "Derives every value from a clone and the root, and compares it with the lab";
            lab = "Starts, shows and ends the lab";
            shell = "Opens a shell with the programs and a kubeconfig of the lab";
          };
        in
        appsOf tools
        // tasks
        // {
          default = tasks.lifecycle;
          test = app "Runs the tests of the repository" (lib.getExe (pkgs.writeShellApplication {
            name = "test";
            runtimeInputs = development pkgs;
            text = ''exec ${holistic}/tasks/test "$@"'';
          }));
        })
        // eachMac ({ tools, ... }: appsOf tools);

      devShells = eachSystem ({ pkgs, ... }: { default = pkgs.mkShell { packages = development pkgs; }; });

      # `nix fmt`. The check `format` reports what it would change.
      formatter = eachSystem ({ pkgs, ... }: pkgs.writeShellApplication {
        name = "format";
        runtimeInputs = [ pkgs.cargo pkgs.rustfmt ];
        text = "cargo fmt --all";
      });

      checks = eachSystem ({ system, pkgs, tools, ... }:
        tools.programs
        // lib.concatMapAttrs (source: checks: lib.mapAttrs' (name: check: lib.nameValuePair "${source}-${name}" check) checks) (ofSources "checks" system)
        // {
          inherit (tools) lab manual tests;
          format = pkgs.runCommand "format" { nativeBuildInputs = [ pkgs.cargo pkgs.rustfmt ]; } ''
            export CARGO_HOME=$PWD
            cd ${self}
            cargo fmt --all --check
            touch $out
          '';
        });

      hydraJobs = eachSystem ({ system, ... }: self.checks.${system});

      # Templates do not use nixpkgs, so that `nix flake init` does not fetch it.
      templates = builtins.mapAttrs (name: description: { path = ./templates + "/${name}"; inherit description; }) {
        source = "A source: a Rust service without dependencies, and the Artifact that publishes it";
        cluster = "A cluster: its machines at Hetzner, with Talos and Kubernetes";
        deployment = "A deployment: manifests, published as a signed artifact, and Flux, which verifies the signature";
        decision = "A decision record";
      } // {
        project = {
          path = ./templates/project;
          description = "A whole project: documents, a source, manifests, workflows; ./tasks/lifecycle runs it in the lab";
          # Measured: `nix flake init` of Nix 2.8 drops the executable bit of files.
          welcomeText = ''
            `nix flake init` drops the executable bit of files, so `chmod` sets it again. In an empty folder, run:

                git init --initial-branch=main && chmod +x tasks/* && git add --all && git commit --message "From the template"
                ./tasks/lifecycle
          '';
        };
      };
    };
}
