package libvirt

import "fmt"

// step is one thing that virsh is told on both hosts. One that comes out
// differently says why.
type step struct {
	command string // words, of which those with blanks are in double quotes
	differs string
}

// same makes steps that come out the same.
func same(commands ...string) []step {
	var list []step
	for _, c := range commands {
		list = append(list, step{command: c})
	}
	return list
}

func differs(why string, commands ...string) []step {
	list := same(commands...)
	for i := range list {
		list[i].differs = why
	}
	return list
}

// everywhere is a command on each of the networks.
func everywhere(command string, networks ...string) []step {
	var list []step
	for _, n := range networks {
		list = append(list, step{command: fmt.Sprintf(command, n)})
	}
	return list
}

func defineRefused() []step {
	var list []step
	for i := range refusals {
		list = append(list, step{command: fmt.Sprintf("net-define @refused%d", i)})
	}
	return list
}

const noID = "11111111-1111-1111-1111-111111111111"

const newer = "libvirt 9.0 could not modify these yet"

// steps are the whole script, in order.
var steps = [][]step{
	// The connection, and what is no business of a network driver.
	same("uri", "version", "version --daemon", "hostname", "nodeinfo", "capabilities", "list", "list --all", "iface-list", "nwfilter-list", "nwfilter-dumpxml x",
		"nwfilter-binding-list", "sysinfo", "pool-list", "nodedev-list", "secret-list", "maxvcpus", "freecell", "dominfo x", "define @lan",
		"domcapabilities", "nodememstats", "cpu-models x86_64", "net-list --nope", "net-nope", "-c network:///nope net-list"),
	// Nothing is there yet.
	same("net-list", "net-list --all", "net-list --all --name", "net-list --all --uuid", "net-info lan", "net-start lan", "net-destroy lan", "net-undefine lan",
		"net-dumpxml lan", "net-autostart lan", "net-uuid lan", "net-name "+noID, "net-start "+noID, "net-dhcp-leases lan", "net-port-list lan",
		"net-edit lan", "net-event lan"),
	// Definitions.
	same("net-define @lan", "net-define @Backup", "net-define @taken", "net-define @plain", "net-define @bare", "net-define @routed",
		"net-define @open", "net-define @dual", "net-define @guest", "net-define @groups",
		"net-define @metadata",
		"net-define @lan", "net-define @clash-uuid", "net-define @clash-name", "net-define @clash-bridge", "net-define @nothing",
		"net-define @noroot", "net-define /tmp/missing.xml", "net-define", "net-define @plain --validate", "net-create @clash-uuid", "net-create @clash-name", "net-create @clash-bridge", "net-create @noroot",
		"net-create /tmp/missing.xml", "net-create @broken", "net-define @broken", "net-define @unknown", "net-dumpxml unknown", "net-undefine unknown"),
	defineRefused(),
	same("net-define @extra --validate", "net-define @extraattr --validate", "net-create @extradeep --validate", "net-define @extratext --validate",
		"net-create @noroot --validate", "net-define @groups --validate", "net-define @dual --validate", "net-define @options --validate", "net-undefine options"),
	everywhere("net-dumpxml %s", "lan", "Backup", "plain", "bare", "routed", "open", "dual", "guest", "groups", "metadata"),
	same("net-dumpxml lan --inactive", "net-dumpxml lan --xpath //ip", "net-dumpxml dual --xpath //host/@ip", "net-dumpxml lan --xpath //ip --wrap", "net-dumpxml lan --xpath //nope",
		"net-dumpxml lan --xpath ///"),
	everywhere("net-info %s", "lan", "bare"),
	same("net-uuid routed", "net-name 5f3c1f4e-8a3b-4c7b-9f0e-2c2b3a1d4e5f", "net-info 5f3c1f4e-8a3b-4c7b-9f0e-2c2b3a1d4e5f", "net-name routed", "net-uuid "+noID),
	// Lists and marks.
	same("net-autostart Backup", "net-autostart Backup", "net-list --all", "net-list --inactive", "net-list --all --autostart", "net-list --all --no-autostart",
		"net-list --all --persistent", "net-list --all --transient", "net-list --inactive --autostart --name", "net-list --all --uuid --name", "net-list --all --table",
		"net-list --all --title", "net-autostart Backup --disable", "net-autostart Backup --disable", "net-list --all --autostart", "net-autostart nope", "net-autostart Backup"),
	// Lives.
	same("net-create @passing", "net-create @passing", "net-info passing", "net-autostart passing", "net-undefine passing", "net-list --transient",
		"net-start lan", "net-start lan", "net-list", "net-list --all", "net-info lan", "net-dumpxml lan", "net-dumpxml lan --inactive",
		"net-start taken", "net-start passing", "net-start nope", "net-start plain", "net-start Backup", "net-start routed", "net-start open", "net-start dual", "net-start guest",
		"net-start groups", "net-list --all", "net-define @lan-new", "net-dumpxml lan", "net-dumpxml lan --inactive", "net-create @lan"),
	everywhere("net-dumpxml %s", "plain", "Backup", "routed", "open", "dual", "guest", "groups", "passing"),
	same("net-dumpxml passing --inactive", "net-undefine plain", "net-list --all --transient", "net-define @plain", "net-list --all --persistent",
		"net-destroy lan", "net-destroy lan", "net-dumpxml lan", "net-start lan", "net-dumpxml lan", "net-destroy passing", "net-destroy passing",
		"net-destroy "+noID),
	// Updates.
	same("net-update lan add ip-dhcp-host \"<host mac='52:54:00:50:00:01' name='one' ip='192.168.50.11'/>\"",
		"net-update lan add ip-dhcp-host \"<host mac='52:54:00:50:00:01' name='one' ip='192.168.50.11'/>\"",
		"net-update lan add-first ip-dhcp-host \"<host mac='52:54:00:50:00:02' name='two' ip='192.168.50.12'/>\" --live --config",
		"net-update lan add-last ip-dhcp-host \"<host mac='52:54:00:50:00:03' ip='192.168.50.13'/>\" --config",
		"net-update lan modify ip-dhcp-host \"<host mac='52:54:00:50:00:01' name='uno' ip='192.168.50.14'/>\" --live",
		"net-update lan modify ip-dhcp-host \"<host mac='52:54:00:50:00:09' name='nine' ip='192.168.50.99'/>\" --live",
		"net-update lan delete ip-dhcp-host \"<host mac='52:54:00:50:00:01'/>\" --live", "net-update lan delete ip-dhcp-host \"<host mac='52:54:00:50:00:01'/>\" --live",
		"net-update lan add ip-dhcp-host \"<host mac='52:54:00:50:00:01' name='one' ip='192.168.50.11'/>\" --live"),
	differs("no guest of this network could ever have that address, so it is refused",
		"net-update lan add ip-dhcp-host \"<host mac='52:54:00:50:00:04' ip='10.9.9.9'/>\" --live", "net-update lan delete ip-dhcp-host \"<host mac='52:54:00:50:00:04'/>\" --live"),
	same("net-update lan delete ip-dhcp-host \"<host mac='52:54:00:50:00:01'/>\" --live",
		"net-update lan add ip-dhcp-host \"<host mac='52:54:00:50:00:05' ip='192.168.50.15'/>\" --parent-index 0 --current",
		"net-update lan add ip-dhcp-host \"<host mac='52:54:00:50:00:06' ip='192.168.50.16'/>\" --parent-index 7",
		"net-update lan add ip-dhcp-range \"<range start='192.168.50.2' end='192.168.50.254'/>\"",
		"net-update lan delete ip-dhcp-range \"<range start='192.168.50.2' end='192.168.50.254'/>\" --live --config",
		"net-update lan delete ip-dhcp-range \"<range start='192.168.50.2' end='192.168.50.254'/>\"",
		"net-update lan add ip-dhcp-range \"<range start='192.168.50.100' end='192.168.50.150'/>\" --live --config",
		"net-update lan modify ip-dhcp-range \"<range start='192.168.50.100' end='192.168.50.150'/>\"",
		"net-update lan add ip-dhcp-range \"<range start='192.168.51.100' end='192.168.51.150'/>\"",
		"net-update lan add dns-host \"<host ip='192.168.50.30'><hostname>thirty</hostname></host>\" --live --config",
		"net-update lan add dns-host \"<host ip='192.168.50.30'><hostname>other</hostname></host>\"",
		"net-update lan delete dns-host \"<host ip='192.168.50.39'/>\""),
	differs(newer, "net-update lan modify dns-host \"<host ip='192.168.50.30'><hostname>dreissig</hostname></host>\" --live"),
	same(
		"net-update lan delete dns-host \"<host ip='192.168.50.31'/>\"", "net-update lan delete dns-host \"<host ip='192.168.50.30'/>\" --live",
		"net-update lan add dns-txt \"<txt name='note' value='some text'/>\"", "net-update lan add dns-txt \"<txt name='note' value='other text'/>\"",
		"net-update lan add dns-txt \"<txt/>\""),
	differs(newer, "net-update lan modify dns-txt \"<txt name='note' value='other text'/>\""),
	same("net-update lan delete dns-txt \"<txt name='nope'/>\"", "net-update lan delete dns-txt \"<txt name='note'/>\"",
		"net-update lan add dns-srv \"<srv service='sip' protocol='udp' domain='a.test' target='t' port='5060'/>\"",
		"net-update lan add dns-srv \"<srv service='sip' protocol='udp' domain='a.test' target='t' port='5060'/>\"",
		"net-update lan modify dns-srv \"<srv service='sip' protocol='udp'/>\"", "net-update lan delete dns-srv \"<srv service='sip' protocol='tcp'/>\"",
		"net-update lan delete dns-srv \"<srv service='sip' protocol='udp'/>\"",
		"net-update lan add portgroup \"<portgroup name='web'/>\" --live --config", "net-update lan add portgroup \"<portgroup name='web'/>\"",
		"net-update lan modify portgroup \"<portgroup name='web' default='yes'/>\" --live", "net-update lan add portgroup \"<portgroup name='db' default='yes'/>\" --live",
		"net-update lan delete portgroup \"<portgroup name='nope'/>\"", "net-update lan delete portgroup \"<portgroup name='web'/>\" --live",
		"net-update lan add bridge \"<bridge name='x'/>\"", "net-update lan add domain \"<domain name='x'/>\"", "net-update lan modify ip \"<ip/>\"", "net-update lan add forward \"<forward/>\"",
		"net-update lan add forward-pf \"<pf dev='x'/>\"", "net-update lan modify forward-interface \"<interface dev='x'/>\"", "net-update lan delete forward-interface \"<interface dev='x'/>\"",
		"net-update lan add nope \"<x/>\"", "net-update lan nope dns-txt \"<txt/>\"", "net-update lan add dns-txt \"<host/>\"", "net-update lan add dns-txt \"<txt\"",
		"net-update lan add dns-txt /tmp/missing.xml", "net-update nope add dns-txt \"<txt name='a' value='b'/>\"",
		"net-update lan add dns-txt \"<txt name='a' value='b'/>\" --current --live", "net-update taken add dns-txt \"<txt name='a' value='b'/>\" --live",
		"net-update taken add dns-txt \"<txt name='a' value='b'/>\"", "net-dumpxml taken", "net-create @passing", "net-update passing add dns-txt \"<txt name='a' value='b'/>\" --config",
		"net-destroy passing", "net-dumpxml lan", "net-dumpxml lan --inactive"),
	// Ports.
	same("net-port-list lan", "net-port-create lan @extraport --validate", "net-port-create lan @port", "net-port-create lan @port-limit", "net-port-create lan @port-alone", "net-port-list lan --uuid", "net-port-list lan --table",
		"net-port-dumpxml lan 11111111-aaaa-4aaa-8aaa-000000000001", "net-port-dumpxml lan 11111111-aaaa-4aaa-8aaa-000000000002", "net-port-dumpxml lan 11111111-aaaa-4aaa-8aaa-000000000004",
		"net-port-dumpxml lan 11111111-aaaa-4aaa-8aaa-000000000001 --xpath //mac", "net-port-create groups @port-group", "net-port-dumpxml groups 11111111-aaaa-4aaa-8aaa-000000000003",
		"net-port-create groups @port", "net-port-dumpxml groups 11111111-aaaa-4aaa-8aaa-000000000001", "net-dumpxml lan", "net-dumpxml groups",
		"net-port-create lan @port-plug", "net-port-create lan @port-owner", "net-port-create lan @port-uuid", "net-port-create lan @port-mac", "net-port-create lan @port-vport", "net-port-create lan @lan",
		"net-port-create lan @broken", "net-port-create lan /tmp/missing.xml", "net-port-create taken @port", "net-port-create nope @port", "net-port-list taken", "net-port-list nope",
		"net-port-dumpxml lan "+noID, "net-port-delete lan "+noID, "net-port-dumpxml lan nope", "net-port-delete lan nope", "net-port-dumpxml nope "+noID,
		"net-port-delete lan 11111111-aaaa-4aaa-8aaa-000000000001", "net-port-delete lan 11111111-aaaa-4aaa-8aaa-000000000001", "net-port-delete lan 11111111-aaaa-4aaa-8aaa-000000000002",
		"net-port-delete lan 11111111-aaaa-4aaa-8aaa-000000000004", "net-port-list lan", "net-dumpxml lan --xpath /network/@connections"),
	differs("libvirt says it twice over: 'network port Network port with UUID U already exists exists already'", "net-port-create groups @port"),
	same("net-port-delete groups 11111111-aaaa-4aaa-8aaa-000000000001", "net-port-delete groups 11111111-aaaa-4aaa-8aaa-000000000003"),
	// Leases. A guest has one in the network guest, see TestVirshSaysTheSame.
	same("net-dhcp-leases guest", "net-dhcp-leases guest 52:54:00:60:00:01", "net-dhcp-leases guest --mac 52:54:00:60:00:02", "net-dhcp-leases guest nope", "net-dhcp-leases lan",
		"net-dhcp-leases bare", "net-dhcp-leases taken", "net-dhcp-leases nope"),
	// Editors.
	same("net-edit lan", "net-dumpxml lan --inactive", "net-edit lan", "net-edit nope"),
	// Events. What happened before is watched all along, see TestVirshSaysTheSame.
	same("net-event --list", "net-event", "net-event --event nope", "net-event --event lifecycle --timeout 1", "net-event --network lan --event lifecycle --timeout 1",
		"net-event --event lifecycle --loop --timeout 1 --timestamp"),
	// Clients that may only look.
	same("-r uri", "-r net-list --all", "-r net-info lan", "-r net-dumpxml lan", "-r net-dhcp-leases guest", "-r net-port-list lan", "-r net-define @plain", "-r net-create @passing", "-r net-start bare",
		"-r net-destroy lan", "-r net-undefine lan", "-r net-autostart lan", "-r net-port-create lan @port", "-r net-event --event lifecycle --timeout 1",
		"-r net-update lan add dns-txt \"<txt name='a' value='b'/>\"", "-r net-port-delete lan "+noID),
	// The end.
	same("net-destroy lan", "net-destroy Backup", "net-destroy plain", "net-destroy routed", "net-destroy open", "net-destroy dual", "net-destroy groups", "net-destroy guest", "net-undefine lan", "net-undefine lan",
		"net-undefine Backup", "net-undefine 5f3c1f4e-8a3b-4c7b-9f0e-2c2b3a1d4e5f", "net-list --all", "net-undefine dual", "net-undefine plain"),
}
