#!/bin/sh
# Debian's Chromium and its driver for the tests that look at pages.
set -eu
for program in chromium chromedriver; do
    command -v $program > /dev/null || missing=yes
done
[ "${missing:-no}" = yes ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "Chromium is not installed, and to install it takes root and apt-get: its tests are skipped"
    exit 0
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends \
    chromium chromium-driver > /dev/null
