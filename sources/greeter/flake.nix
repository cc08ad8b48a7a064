{
  description = "greeter: greets over HTTP and counts its greetings";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = builtins.filter (system: nixpkgs.legacyPackages ? ${system}) [ "x86_64-linux" "aarch64-linux" ];
      eachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      # A static build is one file without references to the rest of the store. Nix runs the tests in the build.
      package = pkgs: pkgs.pkgsStatic.rustPlatform.buildRustPackage {
        pname = "greeter";
        version = (lib.importTOML ./Cargo.toml).package.version;
        src = lib.fileset.toSource {
          root = ./.;
          fileset = lib.fileset.unions [ ./Cargo.toml ./Cargo.lock ./src ./tests ];
        };
        cargoLock.lockFile = ./Cargo.lock;
        meta = {
          description = "Greets over HTTP and counts its greetings";
          mainProgram = "greeter";
          license = [ lib.licenses.mit lib.licenses.asl20 ];
        };
      };
    in
    {
      packages = eachSystem (pkgs: { default = package pkgs; });
      apps = eachSystem (pkgs: { default = { type = "app"; program = lib.getExe (package pkgs); }; });
      checks = eachSystem (pkgs: {
        default = package pkgs;
        prepares = pkgs.runCommand "greeter-prepares" { } ''
          mkdir data
          GREETER_DATA=$PWD/data GREETER_OWNER=$(id -u):$(id -g) ${lib.getExe (package pkgs)} prepare
          touch $out
        '';
      });
      hydraJobs = eachSystem (pkgs: { default = package pkgs; });
    };
}
