package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/engine"
	"viaduct/internal/libvirtfiles"
	"viaduct/internal/libvirtrpc/attach"
	"viaduct/internal/netdef"
)

var importVerbs = []verb{
	{
		name: "import-libvirt", group: groupHost, run: importLibvirt,
		short: "take over the networks of libvirt's own driver",
		long: "Takes definitions, autostart marks, leases and ports, and of active networks the\n" +
			"bridge with all that is plugged in: guests go on and keep their addresses. DHCP\n" +
			"and DNS are silent while one server ends and the other starts.\n" +
			"libvirt's daemon (virtnetworkd or libvirtd) is ended for that, and a libvirtd that\n" +
			"systemd runs is started again. What libvirt knew is kept, for --undo.",
		flags: []flag{
			{name: "dry-run", help: "only show what would be done"},
			{name: "undo", help: "give the networks back to libvirt"},
			{name: "libvirt-config", value: "DIR", help: "libvirt's definitions are below DIR", fallback: "/etc/libvirt"},
			{name: "libvirt-run", value: "DIR", help: "libvirt's status files are below DIR", fallback: "/run/libvirt"},
			{name: "libvirt-state", value: "DIR", help: "libvirt's leases are below DIR", fallback: "/var/lib/libvirt"},
			{name: "keep", value: "DIR", help: "what libvirt knew is kept in DIR", fallback: "/var/lib/viaduct/imported"},
		},
	},
}

// imported is what became of one of libvirt's networks.
type imported struct {
	Network string `json:"network"`
	Result  string `json:"result"`
	// Operations are what is to be done on the host, in a dry run.
	Operations []string `json:"operations,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// importReport is what became of all.
type importReport struct {
	Networks []imported `json:"networks"`
	Notes    []string   `json:"notes,omitempty"`
	failed   bool
}

func (r *importReport) left(network string, err error) {
	r.failed = true
	r.Networks = append(r.Networks, imported{Network: network, Result: "left as it is: " + err.Error()})
}

func (c *call) libvirtPaths() libvirtfiles.Paths {
	return libvirtfiles.Paths{Config: c.text("libvirt-config"), Run: c.text("libvirt-run"), State: c.text("libvirt-state")}
}

func importLibvirt(c *call) error {
	if c.is("undo") {
		return c.undoImport()
	}
	paths := c.libvirtPaths()
	networks, errs := libvirtfiles.Read(paths)
	// What libvirt has of ours is no network of its own.
	networks = slices.DeleteFunc(networks, func(n libvirtfiles.Network) bool { return attach.Marked(n.Config) || attach.Marked(n.Live) })
	report := &importReport{Networks: []imported{}, failed: len(errs) > 0}
	for _, err := range errs {
		report.Notes = append(report.Notes, err.Error())
	}
	driver, err := findDriver(paths)
	if err != nil {
		return err
	}
	var takeable, taken []libvirtfiles.Network
	for _, n := range networks {
		// Asked of all before anything is done to one.
		plan, err := c.client.TakeOver(c, takingOf(n, driver), true)
		if err != nil && c.isTaken(n) {
			taken = append(taken, n)
			continue
		}
		if err != nil {
			report.left(n.Name, c.inTheWay(n, err))
			continue
		}
		takeable = append(takeable, n)
		if c.is("dry-run") {
			report.Networks = append(report.Networks, imported{Network: n.Name, Result: "would be " + resultOf(n), Operations: plan.Operations})
		}
	}
	for _, n := range taken {
		c.finishOne(n, report)
	}
	switch {
	case len(takeable) == 0:
	case c.is("dry-run"):
		report.Notes = append(report.Notes, driver.plan()...)
	default:
		if err := driver.stop(c); err != nil {
			return failing(err, "Failed to end %s; nothing has changed", driver.program)
		}
		for _, n := range takeable {
			c.importOne(n, driver, report)
		}
		report.Notes = append(report.Notes, driver.replaced(c)...)
	}
	return c.printImport(report, "some networks are libvirt's still")
}

// takingOf is a network as the daemon is told of it.
func takingOf(n libvirtfiles.Network, d *driver) engine.Taking {
	return engine.Taking{
		Config: n.Config, Live: n.Live, Autostart: n.Autostart, Leases: n.Leases, Ports: n.Ports, Dnsmasq: n.Dnsmasq,
		PortsEnd: d.program == libvirtd, // it deletes the ports of its guests in its own memory only
	}
}

func resultOf(n libvirtfiles.Network) string {
	if n.Live == "" {
		return "taken over, inactive"
	}
	return fmt.Sprintf("taken over, active on %s, with %d leases and %d ports", n.Bridge, len(n.Leases), len(n.Ports))
}

// importOne takes one network over. What libvirt knows of it is kept first and
// goes last, so that at no time nobody has it.
func (c *call) importOne(n libvirtfiles.Network, d *driver, report *importReport) {
	record, err := n.Record(c.text("keep"))
	if err != nil {
		report.left(n.Name, err)
		return
	}
	taken, err := c.client.TakeOver(c, takingOf(n, d), false)
	if err != nil {
		report.left(n.Name, errors.Join(err, record.Forget()))
		return
	}
	done := imported{Network: n.Name, Result: resultOf(n), Notes: taken.Notes}
	if err := n.Remove(); err != nil {
		report.failed = true
		done.Notes = append(done.Notes, "libvirt still knows it: "+err.Error())
	}
	report.Networks = append(report.Networks, done)
}

// isTaken reports whether an import that was cut short has taken the network over.
func (c *call) isTaken(n libvirtfiles.Network) bool {
	info, err := c.client.Lookup(c, n.UUID.String())
	return err == nil && info.Name == n.Name && info.UUID == n.UUID && info.Active == (n.Live != "") && info.Bridge == n.Bridge
}

// inTheWay adds to the error that a network cannot be taken over how to make
// way for it, if another of ours has its name: on many hosts that is the one
// made at the first start.
func (c *call) inTheWay(n libvirtfiles.Network, err error) error {
	info, failed := c.client.Lookup(c, n.Name)
	if failed != nil || info.Name != n.Name || info.UUID == n.UUID {
		return err
	}
	way := "viaduct net-undefine " + n.Name
	if info.Active {
		way = "viaduct net-destroy " + n.Name + " && " + way
	}
	return fmt.Errorf("%w; if no guest needs that: %s", err, way)
}

// finishOne lets libvirt forget a network that has been taken over.
func (c *call) finishOne(n libvirtfiles.Network, report *importReport) {
	done := imported{Network: n.Name, Result: "taken over before; libvirt forgets it"}
	if !c.is("dry-run") {
		_, err := n.Record(c.text("keep"))
		if err == nil {
			err = n.Remove()
		}
		if err != nil {
			report.left(n.Name, err)
			return
		}
	}
	report.Networks = append(report.Networks, done)
}

// undoImport gives back what has been imported.
func (c *call) undoImport() error {
	paths := c.libvirtPaths()
	records, err := libvirtfiles.Records(c.text("keep"))
	if err != nil {
		return err
	}
	driver, err := findDriver(paths)
	if err != nil {
		return err
	}
	report := &importReport{Networks: []imported{}}
	if c.is("dry-run") {
		for _, r := range records {
			report.Networks = append(report.Networks, imported{Network: r.Name, Result: "would be given back to libvirt"})
		}
		if len(records) > 0 {
			report.Notes = driver.plan()
		}
		return c.printImport(report, "")
	}
	if len(records) > 0 {
		if err := driver.stop(c); err != nil {
			return failing(err, "Failed to end %s; nothing has changed", driver.program)
		}
	}
	for _, r := range records {
		result, err := c.undoOne(r, paths)
		if err != nil {
			report.left(r.Name, err)
			continue
		}
		report.Networks = append(report.Networks, imported{Network: r.Name, Result: result})
	}
	switch {
	case len(records) == 0:
	case driver.program == "":
		report.Notes = []string{"libvirt's daemon takes them up when it starts"}
	default:
		report.Notes = driver.restart(c, "")
	}
	return c.printImport(report, "some networks were not given back")
}

// undoOne gives one network back: in effect, if libvirt can go on with what
// the host has of it.
func (c *call) undoOne(r libvirtfiles.Record, paths libvirtfiles.Paths) (string, error) {
	boot, err := libvirtfiles.BootID()
	if err != nil {
		return "", err
	}
	var known *netdef.Error
	info, err := c.client.Lookup(c, r.UUID.String())
	gone := errors.As(err, &known) && known.Code == netdef.ErrNoNetwork
	if err != nil && !gone {
		return "", err
	}
	var leases []netdef.Lease
	whole := !gone && info.Active && info.Mode.OwnsBridge() && r.Active && info.Bridge == r.Bridge && r.BootID == boot
	switch {
	case whole:
		if leases, err = c.leasesOf(r.UUID.String()); err == nil {
			err = c.client.GiveBack(c, r.UUID.String())
		}
	case !gone:
		if info.Active {
			err = c.client.Destroy(c, r.UUID.String())
		}
		if err == nil && info.Persistent {
			err = c.client.Undefine(c, r.UUID.String())
		}
	}
	if err == nil {
		err = r.Restore(paths, whole, leases)
	}
	if err == nil {
		err = r.Forget()
	}
	if whole {
		return "given back to libvirt, active on " + r.Bridge, err
	}
	return "given back to libvirt, inactive", err
}

// leasesOf are the leases of a network in the engine's terms.
func (c *call) leasesOf(ref string) ([]netdef.Lease, error) {
	list, err := c.client.Leases(c, ref, "")
	var leases []netdef.Lease
	for _, l := range list {
		lease, err := l.Lease()
		if err != nil {
			return nil, err
		}
		leases = append(leases, lease)
	}
	return leases, err
}

func (c *call) printImport(r *importReport, failure string) error {
	if c.output == formatJSON {
		if err := c.json(r); err != nil {
			return err
		}
	} else {
		for _, n := range r.Networks {
			fmt.Fprintln(c.out, printable("Network "+n.Network+": "+n.Result, false))
			for _, op := range n.Operations {
				fmt.Fprintln(c.out, printable("  "+op, false))
			}
			for _, note := range n.Notes {
				fmt.Fprintln(c.out, printable("  note: "+note, false))
			}
		}
		for _, note := range r.Notes {
			fmt.Fprintln(c.out, printable("Note: "+note, false))
		}
		if len(r.Networks) == 0 {
			fmt.Fprintln(c.out, "There is no network to hand over")
		}
	}
	if r.failed {
		return errors.New(failure)
	}
	return nil
}

// The programs that have libvirt's network driver.
const (
	libvirtd     = "libvirtd"
	virtnetworkd = "virtnetworkd"
)

// driver is the process that runs libvirt's network driver.
type driver struct {
	program string // "" if none runs
	pid     int
	unit    string   // systemd's, "" if it does not run it
	sockets []string // the units that would start it again
}

// findDriver finds libvirt's daemon. A number in a file alone proves nothing.
func findDriver(p libvirtfiles.Paths) (*driver, error) {
	d := &driver{pid: p.Driver()}
	if d.pid == 0 {
		return d, nil
	}
	proc := filepath.Join("/proc", strconv.Itoa(d.pid))
	name, err := os.ReadFile(filepath.Join(proc, "comm"))
	if errors.Is(err, os.ErrNotExist) {
		return &driver{}, nil
	}
	if err != nil {
		return nil, err
	}
	if program := strings.TrimSpace(string(name)); program == libvirtd || program == virtnetworkd {
		d.program = program
	} else {
		return &driver{}, nil
	}
	groups, err := os.ReadFile(filepath.Join(proc, "cgroup"))
	if err == nil && underSystemd() && strings.Contains(string(groups), "/"+d.program+".service") {
		d.unit = d.program + ".service"
	}
	return d, nil
}
