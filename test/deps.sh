#!/usr/bin/env bash
# Installs what the tests use beside Go: real DHCP and DNS clients, libvirt's
# client and daemon to compare with, and QEMU for the lane with another kernel.
# Does nothing where all of it is there, or where this is no Debian or not root.
set -euo pipefail

packages=(
  busybox-static isc-dhcp-client dhcpcd-base systemd bind9-dnsutils
  iproute2 iputils-ping nftables iptables conntrack ethtool tcpdump procps util-linux kmod strace
  dnsmasq-base iperf3 dnsperf kea-admin libvirt-clients libvirt-daemon libvirt-daemon-system libvirt-daemon-driver-qemu libsys-virt-perl python3-libvirt dbus-daemon polkitd firewalld
  xenstore-utils net-tools
  qemu-system-x86 ipxe-qemu cpio e2fsprogs zstd xz-utils dbus libyaml-0-2 libnm0 libndp0 libteamdctl0
)

# Installed, systemd-resolved or openresolv would take over the machine's resolv.conf and
# ifupdown or NetworkManager its network cards, so they are only unpacked; of Xen only the scripts
# are wanted, to compare with.
unpacked=(systemd-resolved openresolv xen-utils-common ifupdown netplan.io libnetplan0 network-manager)
unpacked_to=/usr/local/lib/viaduct-test

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
missing_unpacked=()
for p in "${unpacked[@]}"; do
  [ -e "/lib/systemd/$p" ] || [ -d "$unpacked_to/$p" ] || missing_unpacked+=("$p")
done
if [ $((${#missing[@]} + ${#missing_unpacked[@]})) -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing, and not installed by an ordinary user: ${missing[*]} ${missing_unpacked[*]}" >&2
  [ "${CI:-}" = true ] && exit 1
  exit 0
fi
echo "installing: ${missing[*]} ${missing_unpacked[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
[ ${#missing[@]} -eq 0 ] || apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
for p in "${missing_unpacked[@]}"; do
  work=$(mktemp -d)
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$p" && dpkg-deb -x ./*.deb tree)
  mkdir -p "$unpacked_to"
  mv "$work/tree" "$unpacked_to/$p"
  chmod 755 "$unpacked_to/$p"
  rm -rf "$work"
done
