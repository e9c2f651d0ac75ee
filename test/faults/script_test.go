package faults

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"viaduct/internal/lab"
)

// step is something that a client asks for, or that happens to the host.
type step struct {
	name string
	// do returns an error if the daemon did not acknowledge it.
	do func(*trial) error
	// effect is what holds once it is acknowledged.
	effect effect
}

// The networks of the script beside the default network: house is persistent
// and has guests, tent is transient and isolated, shed is only ever defined.
const (
	houseUUID = "6b5b1b0c-2f3e-4c57-9d43-1f0e60c35a01"
	// houseHeld is an address that a guest got long ago, in an aged journal.
	houseHeld   = "192.168.50.200"
	houseBridge = "virbr50"
)

// houseXML is the definition of house in its several states: the domain tells
// them apart, extra is what else differs.
func houseXML(domain string, extra ...string) string {
	return fmt.Sprintf(`<network><name>house</name><uuid>%s</uuid><forward mode='nat'/><bridge name='%s'/>
		<mac address='52:54:00:50:50:50'/><domain name='%s'/><ip address='192.168.50.1' prefix='24'>
		<dhcp><range start='192.168.50.2' end='192.168.50.254'/></dhcp></ip>%s</network>`,
		houseUUID, houseBridge, domain, strings.Join(extra, ""))
}

// route is a route by the guest with the given last octet.
func route(by int) string {
	return fmt.Sprintf("<route address='192.168.70.0' prefix='24' gateway='192.168.50.%d'/>", by)
}

func plainXML(name, domain string, n int) string {
	return fmt.Sprintf(`<network><name>%s</name><bridge name='virbr%d'/><domain name='%s'/>
		<ip address='192.168.%d.1' prefix='24'/></network>`, name, n, domain, n)
}

// porchXML is a network in the uplink's own subnet, for whose guests the host answers.
const porchXML = `<network><name>porch</name><metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:answer dev='eth0'/></v:settings></metadata>
	<forward mode='route'/><bridge name='virbr53'/><domain name='wood'/><ip address='203.0.113.137' prefix='29'/></network>`

// limit is what the guests of a network receive, in KiB/s.
func limit(rate int) string {
	return fmt.Sprintf("<bandwidth><inbound average='%d'/></bandwidth>", rate)
}

// script comes by every point at least once.
var script = []step{
	define("house", "one", houseXML("one")),
	call(autostarted("house", true), "net-autostart", "house"),
	call(started("house"), "net-start", "house"),
	plug("aux", "guest"),
	lease("house"),
	call(tapped("house", "vm1"), "port-create", "house", "--tap", "vm1", "--mac", "52:54:00:00:00:99"),
	create("tent", "canvas", plainXML("tent", "canvas", 51)),
	edit("house", "two", houseXML("two", "<mtu size='1400'/>", "<ip address='192.168.60.1' prefix='24'/>", route(8))),
	reload("house"),
	edit("house", "three", houseXML("three", route(9))),
	reload("house"),
	edit("house", "four", houseXML("four")),
	reload("house"),
	apply("house", "six", houseXML("six", limit(5000), "<ip address='192.168.61.1' prefix='24'/>")),
	call(nil, "net-confirm", "house"),
	apply("house", "seven", houseXML("seven", limit(6000), route(9))),
	call(applied("house", "six"), "net-confirm", "house", "--undo"),
	edit("house", "eight", houseXML("eight")),
	reload("house"),
	create("porch", "wood", porchXML),
	call(stopped("porch"), "net-destroy", "porch"),
	lease("house"),
	call(stopped("house"), "net-destroy", "house"),
	obstruct("guest"),
	refused("net-start", "house"),
	clear("guest"),
	call(started("house"), "net-start", "house"),
	lease("house"),
	define("house", "five", houseXML("five")),
	define("shed", "wood", plainXML("shed", "wood", 52)),
	call(autostarted("shed", true), "net-autostart", "shed"),
	call(autostarted("shed", false), "net-autostart", "shed", "--disable"),
	call(undefined("shed"), "net-undefine", "shed"),
	call(tapped("house", ""), "port-delete", "house", "vm1"),
	call(tapped("house", "vm2"), "port-create", "house", "--tap", "vm2", "--mac", "52:54:00:00:00:98"),
	call(undefined("house"), "net-undefine", "house"),
	call(stopped("house"), "net-destroy", "house"),
	call(stopped("default"), "net-destroy", "default"),
	call(stopped("tent"), "net-destroy", "tent"),
	call(undefined("default"), "net-undefine", "default"),
}

// call is a command to the daemon.
func call(e effect, args ...string) step {
	return step{strings.Join(args, " "), func(t *trial) error {
		_, err := t.daemon.Viaduct(t.whileAlive, args...)
		return err
	}, e}
}

func define(name, domain, xml string) step { return withFile("net-define", defined(name, domain), xml) }

func create(name, domain, xml string) step { return withFile("net-create", created(name, domain), xml) }

// apply changes a running network for as long as nobody says otherwise.
func apply(name, domain, xml string) step {
	return withFile("net-apply", applied(name, domain), xml, "--confirm", "1h")
}

func withFile(command string, e effect, xml string, flags ...string) step {
	return step{command, func(t *trial) error {
		const path = "/tmp/definition.xml"
		t.host.WriteFile(path, xml)
		_, err := t.daemon.Viaduct(t.whileAlive, slices.Concat([]string{command}, flags, []string{path})...)
		return err
	}, e}
}

// edit changes the definition file of a network, as an administrator does.
func edit(name, domain, xml string) step {
	return step{"edit " + name, func(t *trial) error {
		t.host.WriteFile(t.daemon.ConfigDir+"/networks/"+name+".xml", xml)
		return nil
	}, defined(name, domain)}
}

// reload has the daemon apply what was edited.
func reload(name string) step { return call(started(name), "reload") }

// lease gives the guest an address, or renews it.
func lease(network string) step {
	return step{"lease", func(t *trial) error {
		seen, err := t.guest.DHCP(t.whileAlive, lab.Builtin)
		if err == nil {
			t.address = seen.Addr.Addr()
			t.told = leased(network, t.address)
		}
		return err
	}, nil}
}

// plug puts links into house's bridge, as a hypervisor does.
func plug(links ...string) step {
	return step{"plug " + strings.Join(links, " "), func(t *trial) error {
		for _, link := range links {
			t.host.SetMaster(link, houseBridge)
		}
		t.plugged = true
		return nil
	}, nil}
}

// obstruct makes it impossible to put the link into a bridge, which makes the
// start of its network fail after all else is done, and clear ends that.
func obstruct(link string) step {
	return step{"obstruct " + link, func(t *trial) error {
		_, err := t.host.Run(t.T.Context(), "ip", "link", "add", "link", link, "name", obstacle, "type", "macvlan")
		return err
	}, nil}
}

func clear(link string) step {
	return step{"clear " + link, func(t *trial) error { return t.clearObstacle() }, nil}
}

const obstacle = "obstacle"

// refused is a command that the daemon must answer with an error.
func refused(args ...string) step {
	return step{strings.Join(args, " ") + ", refused", func(t *trial) error {
		r, err := t.daemon.Viaduct(t.whileAlive, args...)
		switch {
		case err == nil:
			t.Errorf("%s succeeded", args)
		case strings.Contains(r.Stderr, "resource busy"):
			return nil
		}
		return errors.Join(err, t.whileAlive.Err())
	}, nil}
}

func address(s string) netip.Addr { return netip.MustParseAddr(s) }
