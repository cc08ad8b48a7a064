# The programs with their manual pages, and the tasks with every command that they run. A project's own tasks call this.
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

  # Commands of other projects that the tasks, the lab and the programs run. Nix is not in the list, because the user has installed it.
  runtime = with pkgs; [
    age bashInteractive cni-plugins containerd coreutils crun curl findutils gcc git git-lfs gnused gnutar go iproute2 jq openssl python3 util-linux xz zstd
    (runCommand "docker-registry" { } "mkdir -p $out/bin; ln -s ${distribution}/bin/registry $out/bin/docker-registry") # Debian's name of the program
  ];

  # tasks/environment.sh reads this file. The lab builds sources with the nixpkgs that built the programs.
  environment = pkgs.writeText "nix.sh" ''
    built=${programs}/bin
    export PATH=${lib.makeBinPath runtime}:$PATH
    export LAB_NIXPKGS=path:${nixpkgs}
    export CNI_PATH=${pkgs.cni-plugins}/bin
    export LIBRARY_PATH=${pkgs.glibc.static}/lib # the lab links the image of pod sandboxes statically
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
