{
  description = "A project that is completely declared in Git";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # The programs, the lab and the tasks. The first run writes their commit into flake.lock. The template cannot
    # contain that commit, because the template is part of it.
    holistic.url = "github:zabronax/holistic";
    holistic.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = { self, nixpkgs, holistic }:
    let
      inherit (nixpkgs) lib;
      eachSystem = lib.genAttrs (lib.attrNames holistic.devShells); # the lab runs on Linux; macOS has programs alone
      folders = path: lib.attrNames (lib.filterAttrs (_: type: type == "directory") (builtins.readDir path));

      # A source is a flake of its own, imported here with this flake's nixpkgs. As a flake input the source would be
      # locked with a hash, and edits would have no effect.
      sources = lib.genAttrs (folders ./sources)
        (name: let source = (import (./sources + "/${name}/flake.nix")).outputs { self = source; inherit nixpkgs; }; in source);
    in
    {
      packages = eachSystem (system: lib.mapAttrs (_: source: source.packages.${system}.default) sources);

      # Apps: lifecycle, sunset, lab, and each program.
      inherit (holistic) apps;

      checks = eachSystem (system: lib.mapAttrs (_: source: source.checks.${system}.default) sources);

      hydraJobs = eachSystem (system: self.checks.${system});

      devShells = eachSystem (system:
        let pkgs = nixpkgs.legacyPackages.${system}; in {
          default = pkgs.mkShell {
            packages = [ holistic.packages.${system}.default ] ++ (with pkgs; [ age cargo git jq kubectl rustc rustfmt sops ]);
          };
        });
    };
}
