// Command bench measures what Viaduct promises about speed and size, each figure
// beside that of its peer in the same run: Debian's libvirtd with its dnsmasqs,
// the bare kernel, or rules as libvirt writes them. All of it happens in
// namespaces of its own; it needs root and the packages of test/deps.sh.
//
//	go run ./test/bench bin/viaduct                       # prints the tables
//	go run ./test/bench -o docs/benchmarks.md bin/viaduct # and keeps them
//	go run ./test/bench -quick -only lifecycle bin/viaduct
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"viaduct/internal/lab"
)

// scale is how much is measured.
type scale struct {
	batch, batches  int // networks per batch of starts and stops, and how many batches
	many            int // networks where there are many
	fewStarted      int // networks of the small autostart batch
	boots, bigBoots int // daemon starts with few networks to start, and with many
	vifs            int // runs of a hotplug script
	leases          int // guests per way to get a lease
	rounds          int // of traffic
	seconds         int // of traffic per figure
	loadSeconds     int // of DHCP or DNS load per figure
	halvings        int // of the interval in which the highest rate is sought
	queryRounds     int // of DNS load
	rpcRounds       int // of commands of libvirt's clients
	edits           int // of each kind
	limitRounds     int // of limited traffic
	limitSeconds    int // of limited TCP per figure
	changes         int // at least, while a guest pings and sends
}

var (
	fullScale = scale{batch: 10, batches: 10, many: 1000, fewStarted: 50, boots: 5, bigBoots: 2, leases: 3, vifs: 30, rounds: 9, seconds: 1,
		loadSeconds: 5, halvings: 3, queryRounds: 7, rpcRounds: 11, edits: 20,
		limitRounds: 3, limitSeconds: 3, changes: 200}
	quickScale = scale{batch: 5, batches: 2, many: 100, fewStarted: 10, boots: 2, bigBoots: 1, leases: 1, vifs: 5, rounds: 1, seconds: 1,
		loadSeconds: 2, halvings: 1, queryRounds: 1, rpcRounds: 1, edits: 3,
		limitRounds: 1, limitSeconds: 2, changes: 20}
)

// parts are what can be measured, in order.
var parts = []struct {
	name    string
	measure func(*bench)
}{
	{"lifecycle", (*bench).lifecycle},
	{"many", (*bench).manyNetworks},
	{"boot", (*bench).boot},
	{"lease", (*bench).lease},
	{"edit", (*bench).edit},
	{"limits", (*bench).limits},
	{"traffic", (*bench).traffic},
	{"dhcp", (*bench).dhcp4},
	{"dhcp6", (*bench).dhcp6},
	{"dns", (*bench).dns},
	{"crowd", (*bench).crowd},
	{"vif", (*bench).vif},
	{"rpc", (*bench).rpc},
}

func main() {
	lab.Init()
	quick := flag.Bool("quick", false, "measure little, to see that it works")
	only := flag.String("only", "", "measure only these parts, separated by commas: "+strings.Join(partNames(), ", "))
	keep := flag.String("o", "", "put the tables into this file, between its marks")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: bench [flags] VIADUCT-BINARY")
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	b := &bench{ctx: ctx, scale: fullScale}
	if *quick {
		b.scale = quickScale
	}
	err := b.run(flag.Arg(0), *only)
	fmt.Print(b.report.markdown()) // also what was measured before a part failed
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if *keep == "" {
		return
	}
	if err := b.report.keep(*keep); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func partNames() []string {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// bench is a run, and the lab's idea of a test.
type bench struct {
	ctx    context.Context
	scale  scale
	binary string
	disk   string // a folder on the machine's own disk, for what has to be durable
	report report

	lab     *lab.Lab
	failure error
}

func (b *bench) run(binary, only string) (err error) {
	if b.binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	wanted := partNames()
	if only != "" {
		wanted = strings.Split(only, ",")
	}
	for _, name := range wanted {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("no part is called %q, but there are %s", name, strings.Join(partNames(), ", "))
		}
	}
	// The nodes see it, and it is no file system in memory as their own /var/lib is.
	if b.disk, err = os.MkdirTemp("/var/tmp", "viaduct-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.disk)) }()
	b.lab = lab.New(b)
	// The kernel takes 20 s to remove a namespace with 1000 bridges, and lets
	// nobody change a network meanwhile. So all of them stay until the end.
	defer b.lab.Close()
	for _, p := range parts {
		if !slices.Contains(wanted, p.name) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring:", p.name)
		if err := b.part(p.measure); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// part measures one part on a goroutine, which Fatalf can end.
func (b *bench) part(measure func(*bench)) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		measure(b)
	}()
	<-done
	return b.failure
}

func (b *bench) must(err error) {
	if err != nil {
		b.Fatalf("%v", err)
	}
}

// progress tells whoever waits how it goes.
func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "  "+format+"\n", args...)
}

// What lab.T asks for.

func (b *bench) Helper() {}

func (b *bench) Logf(format string, args ...any) { b.progress(format, args...) }

// Cleanup does nothing: run closes the only lab.
func (b *bench) Cleanup(func()) {}

func (b *bench) Skipf(format string, args ...any) { b.Fatalf(format, args...) }

func (b *bench) Fatalf(format string, args ...any) {
	b.failure = fmt.Errorf(format, args...)
	runtime.Goexit()
}
