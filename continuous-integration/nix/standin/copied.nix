# Programs of the host as packages that an image can hold: each with its libraries, and a launcher that finds them. The
# programs in fromHost are links to the host, which an image does not have.
{ host, mkDerivation }:
let
  launcher = builtins.path { name = "launcher.c"; path = ./launcher.c; };

  # `names` are the further names of the program. `helpers` are programs that it starts.
  copied = program: names: helpers: mkDerivation {
    name = "copied-${program}";
    meta.mainProgram = program;
    inherit program names helpers launcher;
    buildCommand = ''
      PATH=$hostPath
      mkdir -p $out/bin $out/lib $out/libexec/git-core $out/libexec/nix $out/programs $out/share/templates
      keep() { # PROGRAM FILE
        for library in $(ldd "$2" | grep -o '/[^ ]*'); do
          case "$library" in */ld-linux*) cp -L "$library" $out/lib/loader ;; *) cp -L "$library" $out/lib/ ;; esac
        done
        cp -L "$2" $out/programs/$1
      }
      launch() { # PROGRAM FILE
        cc -O1 -static -DHERE="\"$out\"" -DNAME="\"$1\"" -o "$2" $launcher
      }
      keep $program "$(command -v $program)"
      launch $program $out/bin/$program
      for name in $names; do ln -s $program $out/bin/$name; done
      for helper in $helpers; do
        keep "$(basename $helper)" $helper
        launch "$(basename $helper)" $out/libexec/git-core/$(basename $helper)
      done
      [ ! -e $out/bin/nix ] || ln -s ../../bin/nix $out/libexec/nix/build-remote # Nix starts itself under this name
      chmod -R u+w $out
    '';
  };
in
{
  runtimeShellPackage = copied "bash" [ "sh" ] [ ];
  gitMinimal = copied "git" [ ] [ "/usr/lib/git-core/git-remote-http" "/usr/lib/git-core/git-remote-https" ];
  git-lfs = copied "git-lfs" [ ] [ ];
  nix = copied "nix" [ "nix-build" "nix-channel" "nix-collect-garbage" "nix-copy-closure" "nix-daemon" "nix-env" "nix-hash" "nix-instantiate" "nix-prefetch-url" "nix-shell" "nix-store" ] [ ];

  closureInfo = { rootPaths }: derivation {
    name = "closure-info";
    system = "x86_64-linux";
    builder = host.shell;
    __structuredAttrs = true;
    exportReferencesGraph.closure = rootPaths;
    args = [ "-euc" ''
      PATH=${host.path}
      # Measured: Nix 2.8 puts a path outside of the sandbox into NIX_ATTRS_JSON_FILE.
      out=$(jq -r .outputs.out .attrs.json)
      mkdir $out
      jq -r '.closure[] | .path, .narHash, .narSize, "", (.references | length), .references[]' .attrs.json >$out/registration
      jq -r '.closure[].path' .attrs.json >$out/store-paths
    '' ];
  };
}
