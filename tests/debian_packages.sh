#!/bin/sh
# Debian's packages for tests that need more than Python: tests/debian_packages.sh PROGRAMS PACKAGES.
# Where they cannot be installed, those tests are skipped.
set -eu
PATH=$PATH:/usr/sbin:/sbin
programs=$1 packages=$2
for program in $programs; do
    command -v "$program" > /dev/null || missing=yes
done
[ "${missing:-no}" = yes ] || exit 0

skip() {
    echo "$packages: not installed, $1: the tests that need them are skipped"
    exit 0
}

if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    skip "which takes root and apt-get"
fi
# No daemon is started by its installation: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
fi
get="apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20"
export DEBIAN_FRONTEND=noninteractive
$get update || skip "and no archive can be reached"
# shellcheck disable=SC2086
$get install --no-install-recommends $packages > /dev/null || skip "and apt-get cannot do it"
