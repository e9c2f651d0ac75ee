#!/usr/bin/env bash
# Installs what the tests use beside Go: real DHCP and DNS clients, libvirt's
# client and daemon to compare with, and QEMU for the lane with another kernel.
# Does nothing where all of it is there, or where this is no Debian or not root.
set -euo pipefail

packages=(
  busybox-static isc-dhcp-client dhcpcd-base systemd bind9-dnsutils
  iproute2 iputils-ping nftables iptables conntrack ethtool tcpdump procps util-linux kmod strace
  dnsmasq-base iperf3 dnsperf kea-admin libvirt-clients libvirt-daemon libvirt-daemon-system
  qemu-system-x86 cpio e2fsprogs zstd
)

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing, and not installed by an ordinary user: ${missing[*]}" >&2
  [ "${CI:-}" = true ] && exit 1
  exit 0
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
