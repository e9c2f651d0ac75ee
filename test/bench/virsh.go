package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// manager is a program that manages networks on a node and answers virsh at a
// socket: the same client measures ours and libvirt's.
type manager struct {
	b      *bench
	node   *lab.Node
	socket string
}

// timeLine is what virsh -t prints after each command, in milliseconds: from
// before its first call to after the last answer.
var timeLine = regexp.MustCompile(`(?m)^\(Time: ([0-9.]+) ms\)$`)

// virsh runs commands one by one in one virsh process over one connection, and
// returns how long each took.
func (m *manager) virsh(commands ...string) []time.Duration {
	r, err := m.node.Run(m.b.ctx, "virsh", "-q", "-t", "-c", "network:///system?mode=direct&socket="+m.socket,
		strings.Join(commands, ";"))
	m.b.must(err)
	var took []time.Duration
	for _, match := range timeLine.FindAllStringSubmatch(r.Stdout, -1) {
		ms, err := strconv.ParseFloat(match[1], 64)
		m.b.must(err)
		took = append(took, time.Duration(ms*float64(time.Millisecond)))
	}
	if len(took) != len(commands) {
		m.b.Fatalf("virsh tells the time of %d of %d commands:\n%s%s", len(took), len(commands), r.Stdout, r.Stderr)
	}
	return took
}

func (m *manager) start(numbers []int) []time.Duration { return m.each("net-start", numbers) }

func (m *manager) stop(numbers []int) []time.Duration { return m.each("net-destroy", numbers) }

func (m *manager) each(command string, numbers []int) []time.Duration {
	var commands []string
	for _, n := range numbers {
		commands = append(commands, command+" "+networkName(n))
	}
	return m.virsh(commands...)
}

// numbers are first, first+1 and so on.
func numbers(first, count int) []int {
	all := make([]int, count)
	for i := range all {
		all[i] = first + i
	}
	return all
}

func networkName(n int) string { return fmt.Sprintf("net%04d", n) }

func bridgeName(n int) string { return fmt.Sprintf("virbr%d", n) }

// subnet is the first three octets of the network's addresses.
func subnet(n int) string { return fmt.Sprintf("10.%d.%d", 64+n/250, n%250) }

// definition is a NAT network with DHCP and DNS, the same for both.
func definition(n int, stp string) string {
	return fmt.Sprintf(`<network>
  <name>%s</name>
  <uuid>6d1f8a52-0c3e-4a57-9b10-%012d</uuid>
  <forward mode='nat'/>
  <bridge name='%s' stp='%s' delay='0'/>
  <mac address='52:54:00:77:%02x:%02x'/>
  <ip address='%s.1' netmask='255.255.255.0'>
    <dhcp><range start='%s.2' end='%s.254'/></dhcp>
  </ip>
</network>
`, networkName(n), n, bridgeName(n), stp, n>>8, n&255, subnet(n), subnet(n), subnet(n))
}
