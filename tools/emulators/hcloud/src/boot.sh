# Runs the user data of a server as cloud-init does at the first boot, in a mount namespace whose only disk is
# a file. Arguments: the folder of the machine, and its public address.
#
# The namespace has no device of this computer, and all its folders are read-only, so that user data can damage
# nothing but the disk of its machine.
set -eu
folder=$1 address=$2
root=$folder/root
mkdir -p "$root"
mount -t tmpfs none "$root"
for name in bin etc lib lib64 nix sbin usr; do
  if test -L "/$name"; then
    cp -P "/$name" "$root/$name"
  elif test -d "/$name"; then
    mkdir "$root/$name"
    mount --bind "/$name" "$root/$name"
    mount -o remount,bind,ro "$root/$name"
  fi
done
mkdir "$root/dev" "$root/proc" "$root/tmp" "$root/emulator"
touch "$root/dev/null" "$root/dev/sda" "$root/dev/urandom" "$root/proc/sysrq-trigger"
mount --bind /dev/null "$root/dev/null"
mount --bind /dev/urandom "$root/dev/urandom"
mount --bind "$folder/disk" "$root/dev/sda"
cp "$folder/user-data" "$root/emulator/user-data"
chmod 700 "$root/emulator/user-data"
cp "$folder/sitecustomize.py" "$root/emulator/sitecustomize.py"
# The kernel of the machine: `u` remounts all file systems read-only, a moment later.
(
  until grep -q u "$root/proc/sysrq-trigger"; do sleep 0.05; done
  mount -o remount,ro "$root"
) &
# The vendor's system has every interpreter in /usr/bin; a computer with Nix has them in its store.
set -- /emulator/user-data
interpreter=$(sed -n '1 s/^#! *\([^ ]*\).*/\1/p' "$folder/user-data")
if ! test -x "$interpreter"; then
  IFS=:
  for path in /usr/bin /bin $PATH; do
    case $path in /usr/bin | /bin | /nix/*) ;; *) continue ;; esac
    test ! -x "$path/${interpreter##*/}" || { set -- "$path/${interpreter##*/}" "$@" && break; }
  done
  unset IFS
fi
exec 3<&0
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/emulator MACHINE_ADDRESS="$address" \
  chroot "$root" "$@" 3<&- &
program=$!
# Standard input is a pipe of the emulator, and ends with it.
(
  cat <&3
  kill -9 "$program"
) >/dev/null 2>&1 &
exec 3<&-
wait "$program"
