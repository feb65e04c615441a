#!/bin/sh
# Builds the Debian package of programs that are built: target/deb/gantline_<version>_<architecture>.deb.
#
# PROFILE=debug takes those of another build than release, VERSION=… names another version than Cargo.toml, OUT=… puts the
# package elsewhere, DPKG_DEB_OPTIONS=-Zgzip compresses in another way. The same programs give the same bytes: every date is
# SOURCE_DATE_EPOCH, or else that of the last commit.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=$(cd "$root" && realpath -m "${CARGO_TARGET_DIR:-target}")
profile=${PROFILE:-release}
out=$(realpath -m "${OUT:-$target/deb}")

fail() {
    echo "deb: $*" >&2
    exit 1
}

if ! command -v dh >/dev/null; then
    [ "$(id -u)" = 0 ] || fail "debhelper is missing: apt-get install debhelper"
    echo "deb: installing debhelper"
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends debhelper >/dev/null ||
        fail "apt-get could not install debhelper"
fi
for program in "$profile/gantline" "$profile/gantline-pages" shim/gantline-shim; do
    [ -x "$target/$program" ] || fail "$target/$program is not built; run make deb"
done
version=${VERSION:-$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")}
# A pre-release is older than its release: 1.0.0-rc.1 is Debian's 1.0.0~rc.1.
version=$(echo "$version" | tr - '~')
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
# Under other locales dates and orders would be other ones.
export LC_ALL=C.UTF-8 TZ=UTC
umask 022

# --- the tree as it will be installed ---

mkdir -p "$out"
work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
# mktemp's directory is for its owner alone, and the tree's own mode is the package's.
chmod 755 "$work"
cp -r "$here/debian" "$work/debian"
tree=$work/tree
gantline=$target/$profile/gantline

install -D -m 755 "$gantline" "$tree/usr/bin/gantline"
install -D -m 755 "$target/shim/gantline-shim" "$tree/usr/libexec/gantline/gantline-shim"
mkdir -p "$tree/etc/gantline"
"$gantline" config default >"$tree/etc/gantline/config.toml"
install -D -m 644 "$here/crictl.yaml" "$tree/usr/share/gantline/crictl.yaml"

"$target/$profile/gantline-pages" "$work/pages" "$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)"
for page in "$work"/pages/man/*; do
    install -D -m 644 "$page" "$tree/usr/share/man/man${page##*.}/${page##*/}"
done
completions=$work/pages/completions
install -D -m 644 "$completions/gantline.bash" "$tree/usr/share/bash-completion/completions/gantline"
install -D -m 644 "$completions/_gantline" "$tree/usr/share/zsh/vendor-completions/_gantline"
install -D -m 644 "$completions/gantline.fish" "$tree/usr/share/fish/vendor_completions.d/gantline.fish"

doc=$tree/usr/share/doc/gantline
mkdir -p "$doc/examples/cni"
cp "$root/README.md" "$doc"
mkdir "$work/papers"
cp "$root/CHANGELOG.md" "$work/papers"
# Those for who runs it; the others are for who changes it.
for paper in configuration kubernetes observability operations packaging performance; do
    [ ! -e "$root/docs/$paper.md" ] || cp "$root/docs/$paper.md" "$doc"
done
cp -r "$root"/cni/examples/. "$root/cni/README.md" "$doc/examples/cni"
find "$doc" -type f -exec chmod 644 {} +

# --- what debhelper makes the package of ---

sed 's|/usr/local/bin/|/usr/bin/|' "$root/docs/gantline.service" >"$work/debian/gantline.service"
cat >"$work/debian/changelog" <<CHANGELOG
gantline ($version) unstable; urgency=medium

  * What is new stands in CHANGELOG.md beside this file.

 -- Gantline maintainers <gantline@users.noreply.github.com>  $(date -u -d "@$SOURCE_DATE_EPOCH" -R)
CHANGELOG
(cd "$work" && debian/rules binary >"$out/build.log" 2>&1) || fail "debhelper failed: $(tail -n 15 "$out/build.log")"
deb=$(echo "$out/gantline_${version}_"*.deb)
echo "$deb"
