# Sourced, after lib.sh, by the scripts that make a fresh Debian 12 in a folder. Not a program of its own.

DEBIAN_SUITE=bookworm

# Lines such as "http://mirror/debian/ bookworm", Debian's own only, as apt knows them now.
debian_sources() {
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(ORIGIN)' 'Created-By: Packages' |
    awk -v suite="$DEBIAN_SUITE" '$3 == "Debian" && index($2, suite) == 1 {print $1, $2}' | sort -u
}

# The mirror to make one from; nothing where apt knows none.
debian_mirror() { debian_sources | awk -v suite="$DEBIAN_SUITE" '$2 == suite {print $1; exit}'; }

# make_debian FOLDER: the packages that every Debian has, and apt.
make_debian() {
  mkdir -p build/logs
  chmod 755 "$1"  # apt reads its lists as a user of its own
  debootstrap --variant=minbase "$DEBIAN_SUITE" "$1" "$(debian_mirror)" >build/logs/debootstrap.log 2>&1 ||
    { tail -n 5 build/logs/debootstrap.log; return 1; }
}

# copy_network_settings FOLDER: what a machine needs to reach the outside from here; nothing else of this one is let in.
copy_network_settings() {
  local folder=$1
  debian_sources | sed 's/.*/deb & main/' >"$folder/etc/apt/sources.list"
  apt-config dump | grep -E '^Acquire::(http|https|Retries|Check-)' >"$folder/etc/apt/apt.conf.d/90host" || true
  # -L: resolv.conf is often a link to what will not be there.
  cp -L /etc/resolv.conf /etc/hosts "$folder/etc/"
  [ ! -f /etc/pip.conf ] || cp -L /etc/pip.conf "$folder/etc/"
  mkdir -p "$folder/etc/ssl/certs" "$folder/usr/local/share/ca-certificates"
  # The bundle for now, and the added authorities for when ca-certificates is installed and writes the bundle anew.
  [ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
  cp -rL /usr/local/share/ca-certificates/. "$folder/usr/local/share/ca-certificates/" 2>/dev/null || true
}

# The variables of this machine's network settings, NAME=VALUE, one a line.
network_variables() {
  env | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|PIP_INDEX_URL|PIP_EXTRA_INDEX_URL|PIP_CERT|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)=' || true
}
