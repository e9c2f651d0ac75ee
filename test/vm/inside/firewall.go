package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"viaduct/internal/lab"
)

// firewall plugs a guest into the default network.
func firewall(w *world) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	w.start("")
	guest := w.PlugGuest(w.host.Node, "virbr0", "guest")
	lease, err := guest.DHCP(ctx, lab.Builtin)
	w.must(err)
	fmt.Println("GUEST", lease.Addr.Addr())
	fmt.Println("HOST", w.host.Addr)
	for _, network := range []string{"tcp", "udp"} {
		seen, err := guest.Who(ctx, network, w.host.Outside.Addr)
		w.must(err)
		fmt.Println("SEEN", seen.Addr(), network)
	}
	for line := range strings.Lines(w.viaduct("plan", "default", "-o", "json")) {
		fmt.Print("PLAN ", line)
	}
	strict := w.NewHost(lab.HostOptions{Name: "strict"})
	err = strict.NewDaemon("/bin/viaduct", lab.DaemonOptions{Args: []string{"--table-owner", "yes"}}).Start()
	fmt.Println("REFUSED", strings.ReplaceAll(fmt.Sprint(err), "\n", " "))
	rules, err := w.host.Run(ctx, "nft", "list", "ruleset")
	w.must(err)
	for line := range strings.Lines(rules.Stdout) {
		fmt.Print("RULE ", line)
	}
}
