# The programs with their pages, and the tasks with all that they need: what a project's own tasks call.
{ pkgs, tools, nixpkgs }:
let
  inherit (pkgs) lib;

  source = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      (lib.fileset.difference ./. ./default.nix)
      ../continuous-integration/components
      ../continuous-integration/flux-artifact
    ];
  };

  # What the tasks, the lab and the programs start that is not built here. Nix itself is the one that runs all this.
  runtime = with pkgs; [
    age bashInteractive cni-plugins containerd coreutils crun curl findutils gcc git gnused gnutar go iproute2 jq openssl util-linux zstd
    (runCommand "docker-registry" { } "mkdir -p $out/bin; ln -s ${distribution}/bin/registry $out/bin/docker-registry") # as Debian calls it
  ];

  # Read by tasks/environment.sh. The lab builds sources with the nixpkgs that built all of this.
  environment = pkgs.writeText "nix.sh" ''
    built=${programs}/bin
    export PATH=${lib.makeBinPath runtime}:$PATH
    export LAB_NIXPKGS=path:${nixpkgs}
    export CNI_PATH=${pkgs.cni-plugins}/bin
    export LIBRARY_PATH=${pkgs.glibc.static}/lib # the sandbox's image is one static program
  '';

  programs = pkgs.symlinkJoin {
    name = "holistic-programs";
    paths = lib.attrValues tools.programs ++ [ tools.lab tools.manual ];
  };
in
pkgs.symlinkJoin {
  name = "holistic";
  paths = [ programs ];
  postBuild = ''
    cp -r ${source}/. $out
    chmod u+w $out/tasks
    cp ${environment} $out/tasks/nix.sh
  '';
  meta.description = "The programs, the lab and the tasks";
}
