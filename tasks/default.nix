# The programs with their manual pages, and the tasks with every command that they run. A project's own tasks call this.
{ pkgs, tools, nixpkgs }:
let
  inherit (pkgs) lib;

  source = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      (lib.fileset.difference ./. ./default.nix)
      modules
      ../continuous-integration/flux-artifact
    ];
  };

  # Commands of other projects that the tasks, the lab and the programs run. Nix is not in the list, because the user has installed it.
  runtime = with pkgs; [
    age bashInteractive cni-plugins containerd coreutils crun curl findutils gcc git git-lfs gnused gnutar go iproute2 jq openssl python3 util-linux xz zstd
    (runCommand "docker-registry" { } "mkdir -p $out/bin; ln -s ${distribution}/bin/registry $out/bin/docker-registry") # Debian's name of the program
  ];

  # Components of the lab that nixpkgs has, and Flux, in the form in which the lab keeps what it builds: folders with the
  # programs under the names of their Go packages. The lab builds the other components with Go, and those whose version in
  # nixpkgs differs in more than the last number from the one in continuous-integration/components.
  components = pkgs.linkFarm "holistic-components" (lib.concatMapAttrs inFolder (flux // lib.filterAttrs isSame {
    etcd = { module = "go.etcd.io/etcd/server/v3"; package = pkgs.etcd or null; programs = { server = "etcd"; }; };
    kubernetes = {
      module = "k8s.io/kubernetes";
      package = pkgs.kubernetes or null;
      programs = lib.genAttrs [ "kube-apiserver" "kube-controller-manager" "kube-scheduler" "kubelet" "kubectl" ] (name: name);
    };
    gitea = {
      module = "code.gitea.io/gitea";
      package = pkgs.gitea or null;
      programs = { gitea = "gitea"; };
      files = { static = pkgs.gitea.data; };
    };
    crane = { module = "github.com/google/go-containerregistry"; package = pkgs.crane or null; programs = { crane = "crane"; }; };
    object-store = { module = "github.com/versity/versitygw"; package = pkgs.versitygw or null; programs = { versitygw = "versitygw"; }; };
  }));
  # Its version is the one in continuous-integration/components, so nothing is to be compared.
  flux = lib.optionalAttrs (pkgs ? buildGoModule) {
    flux = {
      package = import (modules + "/flux") { inherit pkgs; };
      programs = lib.genAttrs [ "source-controller" "kustomize-controller" ] (name: name);
    };
  };
  inFolder = name: { package, programs, files ? { }, ... }:
    lib.mapAttrs' (path: lib.nameValuePair "${name}/${path}") (lib.mapAttrs (_: lib.getExe' package) programs // files);
  isSame = name: { module, package, ... }:
    let
      required = line: builtins.match "(require |\t)${module} v([0-9]+[.][0-9]+)[.].*" line;
      found = builtins.filter (match: match != null) (map required (lib.splitString "\n" (builtins.readFile (modules + "/${name}/go.mod"))));
    in
    package != null && lib.versions.majorMinor package.version == lib.last (lib.head found);
  modules = ../continuous-integration/components;

  # tasks/environment.sh reads this file. The lab builds sources with the nixpkgs that built the programs.
  environment = pkgs.writeText "nix.sh" ''
    built=${programs}/bin
    export PATH=${lib.makeBinPath runtime}:$PATH
    export LAB_NIXPKGS=path:${nixpkgs}
    export LAB_BUILT=${components}
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
  passthru = { inherit components; };
  meta.description = "The programs, the lab and the tasks";
}
