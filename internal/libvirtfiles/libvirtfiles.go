// Package libvirtfiles reads what libvirt's own network driver keeps on disk
// about its networks, as far as another program has to know it that takes them
// over: definitions, status, ports and leases (src/network/bridge_driver.c and
// src/network/leaseshelper.c there).
package libvirtfiles

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"viaduct/internal/netdef"
)

// Paths are the folders in which libvirt keeps its files.
type Paths struct {
	Config string // /etc/libvirt
	Run    string // /run/libvirt
	State  string // /var/lib/libvirt
}

func (p Paths) definition(name string) string {
	return filepath.Join(p.Config, "qemu/networks", name+".xml")
}
func (p Paths) autostart(name string) string {
	return filepath.Join(p.Config, "qemu/networks/autostart", name+".xml")
}
func (p Paths) status(name string) string { return filepath.Join(p.Run, "network", name+".xml") }
func (p Paths) ports(name string) string  { return filepath.Join(p.Run, "network", name, "ports") }

// pid is the file with the number of the process that serves the network. Its
// name is the network's as it is in XML.
func (p Paths) pid(name string) string {
	return filepath.Join(p.Run, "network", netdef.Escape(name)+".pid")
}

// Leases is the file with the leases of the guests in a bridge.
func (p Paths) Leases(bridge string) string {
	return filepath.Join(p.State, "dnsmasq", bridge+".status")
}

// Network is a network of libvirt's.
type Network struct {
	Name string
	UUID netdef.UUID
	// Config is its persistent definition, and Live the one in effect, as XML;
	// "" if there is none.
	Config, Live string
	Autostart    bool
	Bridge       string
	Leases       []netdef.Lease
	// Ports are its ports as networkport XML.
	Ports []string
	// Dnsmasq is the number of the process that serves it; 0 if there is none.
	Dnsmasq int
	// Lasting and Passing are the files by which libvirt knows the network:
	// those that outlive the host's end and those that do not.
	Lasting, Passing []string
}

// maxFile bounds a file that is read, in bytes.
const maxFile = 16 << 20

// Read reads all networks, sorted by name. What cannot be read is told beside
// what can.
func Read(p Paths) ([]Network, []error) {
	var names []string
	var errs []error
	for _, pattern := range []string{p.definition("*"), p.status("*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, []error{err}
		}
		for _, f := range found {
			names = append(names, strings.TrimSuffix(filepath.Base(f), ".xml"))
		}
	}
	slices.Sort(names)
	var networks []Network
	for _, name := range slices.Compact(names) {
		n, err := p.read(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("network '%s': %w", name, err))
			continue
		}
		networks = append(networks, n)
	}
	return networks, errs
}

// Driver is the process that runs libvirt's network driver; 0 if none does, as
// far as its file tells.
func (p Paths) Driver() int { return number(filepath.Join(p.Run, "network", "driver.pid")) }

func number(path string) int {
	text, err := readFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func (p Paths) read(name string) (Network, error) {
	n := Network{Name: name}
	var def *netdef.Network
	for _, d := range []struct {
		path  string
		parse func([]byte) (string, error)
		into  *string
		files *[]string
	}{{p.definition(name), text, &n.Config, &n.Lasting}, {p.status(name), liveDefinition, &n.Live, &n.Passing}} {
		data, err := readFile(d.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			*d.into, err = d.parse(data)
		}
		if err == nil {
			def, err = netdef.Parse([]byte(*d.into))
		}
		if err != nil {
			return n, fmt.Errorf("read %s: %w", d.path, err)
		}
		if def.Name != name {
			return n, fmt.Errorf("read %s: it is about network '%s'", d.path, def.Name)
		}
		*d.files = append(*d.files, d.path)
	}
	if def == nil {
		return n, fs.ErrNotExist
	}
	n.UUID, n.Bridge = def.UUID, def.Bridge.Name
	if _, err := os.Lstat(p.autostart(name)); err == nil {
		n.Autostart = true
		n.Lasting = append(n.Lasting, p.autostart(name))
	}
	var err error
	if n.Leases, err = p.leases(def); err != nil {
		return n, err
	}
	if n.Live == "" {
		return n, nil
	}
	n.Dnsmasq = number(p.pid(name))
	if n.Dnsmasq != 0 {
		n.Passing = append(n.Passing, p.pid(name))
	}
	ports, err := filepath.Glob(filepath.Join(p.ports(name), "*.xml"))
	if err != nil {
		return n, err
	}
	for _, f := range ports {
		data, err := readFile(f)
		if err != nil {
			return n, err
		}
		n.Ports, n.Passing = append(n.Ports, string(data)), append(n.Passing, f)
	}
	return n, nil
}

func text(data []byte) (string, error) { return string(data), nil }

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, err
}

// liveDefinition cuts the <network> out of a <networkstatus>.
func liveDefinition(status []byte) (string, error) {
	d := xml.NewDecoder(bytes.NewReader(status))
	depth, begin := 0, int64(-1)
	for {
		before := d.InputOffset()
		token, err := d.Token()
		if err == io.EOF {
			return "", errors.New("there is no <network> in <networkstatus>")
		}
		if err != nil {
			return "", err
		}
		switch t := token.(type) {
		case xml.StartElement:
			depth++
			switch {
			case depth == 1 && t.Name.Local != "networkstatus":
				return "", fmt.Errorf("it begins with <%s>, and not with <networkstatus>", t.Name.Local)
			case depth == 2 && t.Name.Local == "network":
				begin = before
			}
		case xml.EndElement:
			if depth == 2 && begin >= 0 {
				return string(status[begin:d.InputOffset()]), nil
			}
			depth--
		}
	}
}
