{
  description = "A project that is whole in Git";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # The programs, the lab and the tasks. The first run writes into flake.lock which; a template that is part of
    # them cannot.
    holistic.url = "github:zabronax/holistic";
    holistic.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs = { self, nixpkgs, holistic }:
    let
      inherit (nixpkgs) lib;
      eachSystem = lib.genAttrs (lib.attrNames holistic.packages);
      folders = path: lib.attrNames (lib.filterAttrs (_: type: type == "directory") (builtins.readDir path));

      # A source is a flake of its own. Here it is given this one's nixpkgs: as an input it would be locked with the
      # hash of what it was, and an edit would go unnoticed.
      sources = lib.genAttrs (folders ./sources)
        (name: let it = (import (./sources + "/${name}/flake.nix")).outputs { self = it; inherit nixpkgs; }; in it);
    in
    {
      packages = eachSystem (system: lib.mapAttrs (_: it: it.packages.${system}.default) sources);

      # lifecycle, sunset, lab, and each program.
      inherit (holistic) apps;

      checks = eachSystem (system: lib.mapAttrs (_: it: it.checks.${system}.default) sources);

      hydraJobs = eachSystem (system: self.checks.${system});

      devShells = eachSystem (system:
        let pkgs = nixpkgs.legacyPackages.${system}; in {
          default = pkgs.mkShell {
            packages = [ holistic.packages.${system}.default ] ++ (with pkgs; [ age cargo git jq kubectl rustc rustfmt sops ]);
          };
        });
    };
}
