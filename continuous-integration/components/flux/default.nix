# Flux's controllers as a derivation, because nixpkgs has Flux's command alone. `go.mod` here decides their versions.
{ pkgs }:
let
  inherit (pkgs) lib;
in
pkgs.buildGoModule {
  name = "flux-controllers";
  src = lib.fileset.toSource {
    root = ../..;
    fileset = lib.fileset.unions [ ./go.mod ./go.sum ../../flux-artifact ];
  };
  modRoot = "components/flux";
  env.CGO_ENABLED = 0; # the images of the controllers have no C library

  # Modules of the packages that the programs need, and nothing else. By default it is every module that go.mod lists, and
  # proxies lack some of them. Go's own lists and locks differ from run to run.
  proxyVendor = true;
  vendorHash = "sha256-UjbY5vPLzr4rVuEjegiL56vofau4GXUPaS9P2EhNRM8=";
  modBuildPhase = ''
    runHook preBuild
    go list -deps tool >/dev/null
    runHook postBuild
  '';
  modInstallPhase = ''
    runHook preInstall
    rm -rf "$GOPATH/pkg/mod/cache/download/sumdb"
    find "$GOPATH/pkg/mod/cache/download" -type f ! -name '*.info' ! -name '*.mod' ! -name '*.zip' -delete
    cp -r "$GOPATH/pkg/mod/cache/download" $out
    runHook postInstall
  '';

  # The programs are packages of other modules, which `subPackages` cannot name. `tool` means those that go.mod lists.
  buildPhase = ''
    runHook preBuild
    go install -p $NIX_BUILD_CORES -ldflags='-s -w' tool
    runHook postBuild
  '';
  doCheck = false;
}
