package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// guest is a paravirtual guest with the agent in it.
type guest struct {
	w      *world
	name   string
	domid  string
	config string // its file
	addr   string // on its network, once it has one

	console *os.File
	lines   sync.Mutex
	said    []string // what was no answer
	calls   map[string]*call
	number  int
	ready   chan struct{}
}

// call is a command that runs in a guest.
type call struct {
	guest  *guest
	text   string
	output chan string // by line, closed at the end
	status string      // "0" if it went well; there when output is closed
	all    []string
}

const guestConfig = `name = "%s"
type = "pv"
kernel = "/guest/vmlinux"
ramdisk = "/guest/initrd"
memory = 96
vcpus = 1
extra = "console=hvc0 quiet loglevel=1 panic=1 mitigations=off"
on_crash = "destroy"
vif = [ %s ]
`

// guest writes the configuration of a guest with such interfaces.
func (w *world) guest(name string, vifs ...string) *guest {
	g := &guest{w: w, name: name, config: "/tmp/" + name + ".cfg"}
	for i, vif := range vifs {
		vifs[i] = "'" + vif + "'"
	}
	w.must(os.WriteFile(g.config, fmt.Appendf(nil, guestConfig, name, strings.Join(vifs, ", ")), 0o644))
	return g
}

// create has xl start guests at once.
func (w *world) create(guests ...*guest) {
	failed := make(chan error, len(guests))
	for _, g := range guests {
		go func() {
			_, err := try("xl", "create", g.config)
			failed <- err
		}()
	}
	for range guests {
		w.must(<-failed)
	}
	for _, g := range guests {
		g.attach()
	}
}

// attach finds the guest's console and waits for the agent.
func (g *guest) attach() {
	w := g.w
	var tty string
	w.eventually(func() error {
		out, err := try("xl", "domid", g.name)
		g.domid = strings.TrimSpace(out)
		if err != nil {
			return err
		}
		if tty = w.read("/local/domain/" + g.domid + "/console/tty"); tty == "" {
			return fmt.Errorf("%s has no console", g.name)
		}
		return nil
	})
	console, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
	w.must(err)
	g.lines.Lock()
	g.console, g.calls, g.ready, g.said = console, map[string]*call{}, make(chan struct{}), nil
	g.lines.Unlock()
	go g.listen(console)
	select {
	case <-g.ready:
	case <-time.After(limit):
		w.Fatalf("%s does not start; it said:\n%s", g.name, strings.Join(g.said, "\n"))
	}
}

// listen sorts what a guest says.
func (g *guest) listen(console *os.File) {
	ready := g.ready
	for lines := bufio.NewScanner(console); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "READY" {
			close(ready)
			continue
		}
		at := strings.IndexAny(line, ":=")
		g.lines.Lock()
		var c *call
		if at > 0 {
			c = g.calls[line[:at]]
		}
		switch {
		case c == nil:
			g.said = append(g.said, line)
		case line[at] == ':':
			c.output <- line[at+1:]
		default:
			c.status = line[at+1:]
			delete(g.calls, line[:at])
			close(c.output)
		}
		g.lines.Unlock()
	}
}

// start starts a command of the shell in the guest.
func (g *guest) start(command string) *call {
	g.lines.Lock()
	g.number++
	number := fmt.Sprint(g.number)
	c := &call{guest: g, text: command, output: make(chan string, 1000)}
	g.calls[number] = c
	g.lines.Unlock()
	_, err := g.console.WriteString(number + " " + command + "\n")
	g.w.must(err)
	return c
}

// until waits for a line that begins so, and returns the rest of it.
func (c *call) until(word string) string {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-c.output:
			if !ok {
				c.guest.w.Fatalf("%s: %s: ends with %s and did not say %q but:\n%s", c.guest.name, c.text, c.status, word, lastLines(strings.Join(c.all, "\n"), 15))
			}
			c.all = append(c.all, line)
			if rest, found := strings.CutPrefix(line, word); found {
				return strings.TrimSpace(rest)
			}
		case <-timer.C:
			c.guest.w.Fatalf("%s: %s: does not say %q but:\n%s", c.guest.name, c.text, word, lastLines(strings.Join(c.all, "\n"), 15))
		}
	}
}

// wait waits for the end and returns what the command printed.
func (c *call) wait() (string, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-c.output:
			if ok {
				c.all = append(c.all, line)
				continue
			}
			out := strings.Join(c.all, "\n")
			if c.status != "0" {
				return out, fmt.Errorf("%s: %s: status %s: %s", c.guest.name, c.text, c.status, out)
			}
			return out, nil
		case <-timer.C:
			return "", fmt.Errorf("%s: %s: does not end; it said:\n%s", c.guest.name, c.text, strings.Join(c.all, "\n"))
		}
	}
}

// run runs a command in the guest that must succeed.
func (g *guest) run(command string) string {
	out, err := g.start(command).wait()
	g.w.must(err)
	return out
}

// lease has the guest ask for an address, which it returns without its
// prefix, and use what it is told.
func (g *guest) lease(link string) string {
	c := g.start("ip link set " + link + " up && udhcpc -i " + link + " -f -q -n -t 30 -T 1 -s /udhcpc")
	return c.until("LEASE ")
}

// reaches waits until the guest has an answer from an address.
func (g *guest) reaches(addr string) {
	g.run("for i in $(seq 30); do ping -c 1 -W 2 " + addr + " && exit 0; done; exit 1")
}

// seenAs fails the step unless a server sees the guest come from an address.
func (g *guest) seenAs(server, want string) {
	if seen := g.start("agent flow " + server + " 1").until("FLOWING"); seen != want {
		g.w.Errorf("%s sees %s as %s, not %s", server, g.name, seen, want)
	}
}

// madeItself is the address that the guest makes itself of what a router tells.
func (g *guest) madeItself(link, prefix string) string {
	return g.start("ip link set " + link + " up; while ! ip -6 addr show dev " + link + " scope global | grep -v tentative | grep '" + prefix +
		"' | sed -e 's,.*inet6 ,MADE ,' -e 's,/.*,,' | grep -m 1 MADE; do sleep 0.2; done").until("MADE ")
}

// byHand gives an interface an address and a gateway of the family, which is the
// guest's neighbour whatever the address is.
func (g *guest) byHand(link, addr, gateway string) {
	family := "-4"
	if strings.Contains(addr, ":") {
		family = "-6"
	}
	g.run(fmt.Sprintf("ip %[1]s addr flush dev %[2]s scope global; echo 0 >/proc/sys/net/ipv6/conf/%[2]s/accept_dad; ip link set %[2]s up && "+
		"ip %[1]s addr add %[3]s dev %[2]s && ip %[1]s route replace %[4]s dev %[2]s && ip %[1]s route replace default via %[4]s dev %[2]s", family, link, addr, gateway))
}

// reboot reboots the guest from within.
func (g *guest) reboot() {
	old := g.domid
	g.start("reboot -f")
	g.w.eventually(func() error {
		out, err := try("xl", "domid", g.name)
		if strings.TrimSpace(out) == old {
			return fmt.Errorf("%s does not end", g.name)
		}
		return err
	})
	g.close()
	g.attach()
}

// await waits for something to be so in the guest.
func (g *guest) await(condition string) {
	g.run("for i in $(seq 300); do " + condition + " && exit 0; sleep 0.1; done; exit 1")
}

// link is the host's end of an interface.
func (g *guest) link(index int) string { return fmt.Sprintf("vif%s.%d", g.domid, index) }

// vif is the folder of an interface in Xen's store, seen from the host.
func (g *guest) vif(index int) string {
	return fmt.Sprintf("/local/domain/0/backend/vif/%s/%d", g.domid, index)
}

// destroy has xl end the guest, if it is there.
func (g *guest) destroy() {
	if g.domid == "" {
		return
	}
	if out, err := try("xl", "destroy", g.name); err != nil && !strings.Contains(out, "invalid domain identifier") {
		g.w.Errorf("%v", err)
	}
	g.close()
}

func (g *guest) close() {
	if g.console != nil {
		g.console.Close()
	}
	g.domid, g.console = "", nil
}
