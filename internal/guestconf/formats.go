package guestconf

// formats are the languages, each with the files that it needs.
var formats = map[string][]source{
	// interfaces(5): a physical interface is found by its MAC address and used
	// under a name of its own.
	"ifupdown": {{"/etc/network/interfaces.d/{{.Name}}", `
auto mac/{{.MAC}}={{.Name}}
{{- if .DHCP4}}
iface {{.Name}} inet dhcp
{{- with .MTU}}
    mtu {{.}}
{{- end}}
{{- end}}
{{- range $i, $p := .V4}}
iface {{$.Name}} inet static
    address {{$p.Addr}}
    netmask {{netmask $p}}
{{- if eq $i 0}}
{{- with $.Gateway4}}
{{- if .OnLink}}
    pointopoint {{.Addr}}
{{- end}}
    gateway {{.Addr}}
{{- end}}
{{- with $.MTU}}
    mtu {{.}}
{{- end}}
{{- with $.DNS}}
    dns-nameservers {{join . " "}}
{{- end}}
{{- with $.Domain}}
    dns-search {{.}}
{{- end}}
{{- end}}
{{- end}}
{{- if .Auto6}}
iface {{.Name}} inet6 auto
    dhcp 1
{{- end}}
{{- range $i, $p := .V6}}
iface {{$.Name}} inet6 static
    address {{$p}}
{{- if eq $i 0}}
{{- with $.Gateway6}}
{{- if .OnLink}}
    up ip -6 route replace {{.Addr}} dev $IFACE
    up ip -6 route replace default via {{.Addr}} dev $IFACE
{{- else}}
    gateway {{.Addr}}
{{- end}}
{{- end}}
{{- end}}
{{- end}}
`}},
	// The network-scripts of Fedora and Red Hat, which NetworkManager reads too.
	"ifcfg": {
		{"/etc/sysconfig/network-scripts/ifcfg-{{.Name}}", `
TYPE=Ethernet
NAME={{.Name}}
HWADDR={{upper .MAC.String}}
ONBOOT=yes
BOOTPROTO={{if .DHCP4}}dhcp{{else}}none{{end}}
{{- range $i, $p := .V4}}
IPADDR{{if $i}}{{$i}}{{end}}={{$p.Addr}}
PREFIX{{if $i}}{{$i}}{{end}}={{$p.Bits}}
{{- end}}
{{- with .Gateway4}}
{{- if not .OnLink}}
GATEWAY={{.Addr}}
{{- end}}
{{- end}}
IPV6INIT={{if or .Auto6 .V6}}yes{{else}}no{{end}}
{{- if or .Auto6 .V6}}
IPV6_AUTOCONF={{if .Auto6}}yes{{else}}no{{end}}
{{- end}}
{{- range $i, $p := .V6}}
{{- if eq $i 0}}
IPV6ADDR={{$p}}
{{- end}}
{{- end}}
{{- if gt (len .V6) 1}}
IPV6ADDR_SECONDARIES="{{range $i, $p := .V6}}{{if gt $i 0}}{{if gt $i 1}} {{end}}{{$p}}{{end}}{{end}}"
{{- end}}
{{- with .Gateway6}}
{{- if not .OnLink}}
IPV6_DEFAULTGW={{.Addr}}
{{- end}}
{{- end}}
{{- range $i, $a := .DNS}}
DNS{{add $i 1}}={{$a}}
{{- end}}
{{- with .Domain}}
DOMAIN={{.}}
{{- end}}
{{- with .MTU}}
MTU={{.}}
{{- end}}
`},
		{"/etc/sysconfig/network-scripts/route-{{.Name}}", `
{{- with .Gateway4}}
{{- if .OnLink}}
{{.Addr}}/32 dev {{$.Name}}
default via {{.Addr}} dev {{$.Name}}
{{- end}}
{{- end}}
`},
		{"/etc/sysconfig/network-scripts/route6-{{.Name}}", `
{{- with .Gateway6}}
{{- if .OnLink}}
{{.Addr}}/128 dev {{$.Name}}
default via {{.Addr}} dev {{$.Name}}
{{- end}}
{{- end}}
`},
	},
	// ifcfg(5) and routes(5) of SUSE's wicked, which knows interfaces by name: a
	// rule for udev gives the name to the MAC address.
	"wicked": {
		{"/etc/udev/rules.d/70-{{.Name}}.rules", `
SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", ATTR{address}=="{{.MAC}}", ATTR{dev_id}=="0x0", ATTR{type}=="1", NAME="{{.Name}}"
`},
		{"/etc/sysconfig/network/ifcfg-{{.Name}}", `
STARTMODE='auto'
BOOTPROTO='{{if and .DHCP4 .Auto6}}dhcp{{else if .DHCP4}}dhcp4{{else if .Auto6}}{{if .V4}}dhcp6+static{{else}}dhcp6{{end}}{{else}}static{{end}}'
{{- range $i, $p := .Addresses}}
IPADDR{{if $i}}_{{$i}}{{end}}='{{$p}}'
{{- end}}
{{- with .MTU}}
MTU='{{.}}'
{{- end}}
`},
		{"/etc/sysconfig/network/ifroute-{{.Name}}", `
{{- range .Gateways}}
{{- if .OnLink}}
{{.Addr}} - - {{$.Name}}
{{- end}}
default {{.Addr}} - {{$.Name}}
{{- end}}
`},
	},
	"netplan": {{"/etc/netplan/60-{{.Name}}.yaml", "network:\n  version: 2\n" + ethernets}},
	// Version 2 of cloud-init's network configuration, whose language is netplan's.
	"cloud-init": {{"/etc/cloud/cloud.cfg.d/60-{{.Name}}.cfg", "network:\n  version: 2\n" + ethernets}},
	// systemd.network(5)
	"networkd": {{"/etc/systemd/network/60-{{.Name}}.network", `
[Match]
MACAddress={{.MAC}}
{{- with .MTU}}

[Link]
MTUBytes={{.}}
{{- end}}

[Network]
DHCP={{if .DHCP4}}ipv4{{else}}no{{end}}
IPv6AcceptRA={{if .Auto6}}yes{{else}}no{{end}}
{{- range .Addresses}}
Address={{.}}
{{- end}}
{{- range .DNS}}
DNS={{.}}
{{- end}}
{{- with .Domain}}
Domains={{.}}
{{- end}}
{{- range .Gateways}}

[Route]
Gateway={{.Addr}}
{{- if .OnLink}}
GatewayOnLink=yes
{{- end}}
{{- end}}
`}},
}

const ethernets = `  ethernets:
    {{.Name}}:
      match:
        macaddress: "{{.MAC}}"
      dhcp4: {{.DHCP4}}
      accept-ra: {{.Auto6}}
{{- with .Addresses}}
      addresses:
{{- range .}}
        - "{{.}}"
{{- end}}
{{- end}}
{{- with .Gateways}}
      routes:
{{- range .}}
        - to: "{{if .Addr.Is4}}0.0.0.0/0{{else}}::/0{{end}}"
          via: "{{.Addr}}"
{{- if .OnLink}}
          on-link: true
{{- end}}
{{- end}}
{{- end}}
{{- if or .DNS .Domain}}
      nameservers:
{{- with .Domain}}
        search: ["{{.}}"]
{{- end}}
{{- with .DNS}}
        addresses: ["{{join . "\", \""}}"]
{{- end}}
{{- end}}
{{- with .MTU}}
      mtu: {{.}}
{{- end}}
`
