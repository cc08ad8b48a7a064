{
  description = "volume-reader: writes a folder as a reproducible tar archive";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = builtins.filter (system: nixpkgs.legacyPackages ? ${system}) [ "x86_64-linux" "aarch64-linux" ];
      eachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      # A static build is one file without references to the rest of the store. Nix runs the tests in the build.
      package = pkgs: pkgs.pkgsStatic.rustPlatform.buildRustPackage {
        pname = "volume-reader";
        version = (lib.importTOML ./Cargo.toml).package.version;
        src = lib.fileset.toSource {
          root = ./.;
          fileset = lib.fileset.unions [ ./Cargo.toml ./Cargo.lock ./src ./tests ];
        };
        cargoLock.lockFile = ./Cargo.lock;
        meta = {
          description = "Writes a folder as a reproducible tar archive";
          mainProgram = "volume-reader";
          license = [ lib.licenses.mit lib.licenses.asl20 ];
        };
      };
    in
    {
      packages = eachSystem (pkgs: { default = package pkgs; });
      apps = eachSystem (pkgs: { default = { type = "app"; program = lib.getExe (package pkgs); }; });
      checks = eachSystem (pkgs: { default = package pkgs; });
      hydraJobs = eachSystem (pkgs: { default = package pkgs; });
    };
}
