# Sourced by the scripts beside it: messages, timing, package installation, build steps, Python environments.
# Not a program of its own. Callers run under `set -euo pipefail`.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
trap 'echo; echo "Interrupted." >&2; exit 130' INT

if [ -t 1 ]; then BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' RESET=$'\e[0m'; else BOLD='' DIM='' RED='' RESET=''; fi

say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$RESET"; }
die() { printf '%serror:%s %s\n' "$RED" "$RESET" "$*" >&2; exit 1; }

# usage_of FILE: prints the comment block at the head of a script, which is its help text.
usage_of() { sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$1"; }

# 75 -> "1 min 15 s"
human_seconds() {
  if [ "$1" -ge 60 ]; then echo "$(($1 / 60)) min $(($1 % 60)) s"; else echo "$1 s"; fi
}

# timed TITLE COMMAND…: runs a step and says how long it took; the command's status is its own.
timed() {
  local title=$1 start=$SECONDS status=0
  shift
  say "$title"
  "$@" || status=$?
  printf '%s    %s: %s%s\n' "$DIM" "$title" "$(human_seconds $((SECONDS - start)))" "$RESET"
  return "$status"
}

# Compilers at once: one a core, but no more than memory allows. A file that uses Beast takes from half a GiB to one in GCC 12.
build_jobs() {
  local cores memory_gib
  cores=$(nproc)
  memory_gib=$(awk '/MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)
  [ "$memory_gib" -ge 1 ] || memory_gib=1
  if [ "$cores" -lt "$memory_gib" ]; then echo "$cores"; else echo "$memory_gib"; fi
}

# packages_in SECTION…: the package names of those sections of packages.txt, one a line.
packages_in() {
  local section
  for section in "$@"; do
    grep -q "^\[$section\]" scripts/packages.txt || die "scripts/packages.txt has no section [$section]"
    awk -v want="[$section]" '{sub(/#.*/, "")} /^\[/ {on = ($1 == want)} on && NF && !/^\[/ {print $1}' scripts/packages.txt
  done | sort -u
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# install_sections SECTION…: installs what is missing of those sections, and nothing when nothing is.
install_sections() {
  local wanted missing=() package as_root=()
  wanted=$(packages_in "$@") || exit
  command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
    die "this machine has no apt-get. Install the equivalents of these Debian packages yourself:" $wanted
  for package in $wanted; do
    is_installed "$package" || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then
    echo "    all $(echo "$wanted" | wc -l) packages of [$*] are installed"
    return
  fi
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null ||
      die "packages are missing, and installing them needs root, or sudo. As root, run: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  echo "    installing ${#missing[@]} of $(echo "$wanted" | wc -l) packages: ${missing[*]}"
  "${as_root[@]}" apt-get -qq update ||
    die "apt-get update failed (see above). Check the network and the files in /etc/apt/sources.list.d."
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
    -o Dpkg::Use-Pty=0 install "${missing[@]}" >"$(apt_log)" 2>&1 ||
    { tail -n 20 "$(apt_log)" >&2; die "apt-get could not install them (see above; all of it is in $(apt_log))"; }
}

apt_log() { mkdir -p build/logs && echo "$ROOT/build/logs/apt.log"; }

# build_preset PRESET [TARGET…]: configures and builds; everything when no target is named.
build_preset() {
  local preset=$1
  shift
  configure_preset "$preset" &&
    cmake --build --preset "$preset" --parallel "$(build_jobs)" ${1:+--target "$@"}
}

# Configuring says a lot that nobody reads, unless it fails.
configure_preset() {
  mkdir -p build/logs
  cmake --preset "$1" >"build/logs/configure-$1.log" 2>&1 ||
    { cat "build/logs/configure-$1.log" >&2; return 1; }
}

# ensure_venv NAME REQUIREMENTS: makes (or finds) a Python environment outside the tree that holds the packages of that
# requirements file, and prints its path. It is made anew when the file or the interpreter changes.
ensure_venv() {
  local name=$1 requirements=$2 home key
  home=${XDG_CACHE_HOME:-$HOME/.cache}/bloomery/venv-$name
  key=$({ python3 --version; cat "$requirements"; } | sha256sum | cut -d ' ' -f 1)
  if [ "$(cat "$home/.requirements" 2>/dev/null)" != "$key" ]; then
    rm -rf "$home"
    mkdir -p "$(dirname "$home")"
    python3 -m venv "$home" >&2 &&
      "$home/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements" >&2 ||
      { rm -rf "$home"; die "could not make the Python environment '$name' from $requirements (see above)"; }
    echo "$key" >"$home/.requirements"
  fi
  echo "$home"
}
