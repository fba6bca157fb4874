#!/bin/sh
# Debian's Slurm and munge for the tests, without starting them: the tests start their own.
set -eu
PATH=$PATH:/usr/sbin:/sbin
for program in munged slurmctld slurmd sbatch; do
    command -v $program > /dev/null || missing=yes
done
[ "${missing:-no}" = yes ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "Slurm is not installed, and to install it takes root and apt-get: its tests are skipped"
    exit 0
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod +x $policy
fi
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends slurm-wlm munge > /dev/null
