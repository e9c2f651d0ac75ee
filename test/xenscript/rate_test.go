package xenscript

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"viaduct/internal/lab"
)

// Where rate= is enforced the limits follow what is written into the store while
// the guest runs, and while no daemon does; what others ask for stays.
func TestRateFollowsTheStore(t *testing.T) {
	x := newXenHost(t)
	x.must(x.daemon.Start())
	const enforced = "<metadata><v:settings xmlns:v='urn:viaduct:settings:1'><v:rate enforce='yes'/></v:settings></metadata>"
	x.viaduct("net-define", x.file(strings.Replace(natXML("lan", 50), "<forward ", enforced+"<forward ", 1)))
	x.viaduct("net-define", x.file(natXML("plain", 51)))
	for _, name := range []string{"lan", "plain"} {
		x.viaduct("net-start", name)
	}
	watched := func(connections, watches int) {
		t.Helper()
		lab.Eventually(t, 20*time.Second, func() error {
			if c, w := x.store.Watching(); c != connections || w != watches {
				return fmt.Errorf("%d connections have %d watches, want %d and %d\n%s", c, w, connections, watches, x.daemon.Output())
			}
			return nil
		})
	}
	// limited awaits limits of so many KiB/s, 0 for none, in both directions.
	limited := func(n *nic, kib int) {
		t.Helper()
		lab.Eventually(t, 20*time.Second, func() error {
			for _, device := range []string{"ifbi-", "ifbo-"} {
				device += n.link()
				if kib == 0 {
					if x.host.HasLink(device) {
						return fmt.Errorf("there is a %s", device)
					}
					continue
				}
				classes, err := x.host.Run(x.context(), "tc", "class", "show", "dev", device)
				if want := fmt.Sprintf("rate %dKbit", kib*8192/1000); err != nil || !strings.Contains(classes.Stdout, want) {
					return fmt.Errorf("%s has no class with %s: %v\n%s\n%s", device, want, err, classes.Stdout, x.daemon.Output())
				}
			}
			return nil
		})
	}

	rated := x.nic("vif-bridge", 5, 0, keys{"bridge": "lan", "rate": "102400,50000"})
	free := x.nic("vif-bridge", 6, 0, keys{"bridge": "lan"})
	netbacks := x.nic("vif-bridge", 7, 0, keys{"bridge": "plain", "rate": "102400,50000"})
	declared := x.nic("vif-bridge", 8, 0, keys{"rate": "102400,50000"})
	x.viaduct("net-port-create", "lan", x.file(`<networkport><uuid>10000000-0000-0000-0000-000000000001</uuid><owner><name>guest8</name>
		<uuid>20000000-0000-0000-0000-000000000001</uuid></owner><mac address='`+declared.mac().String()+`'/>
		<bandwidth><inbound average='500'/><outbound average='500'/></bandwidth></networkport>`))
	watched(0, 0)
	guests := map[*nic]*lab.Guest{}
	for _, n := range []*nic{rated, free, netbacks, declared} {
		guests[n] = n.attach()
		n.connected()
		x.lease(guests[n])
	}
	watched(1, 2)
	limited(rated, 2000)
	limited(free, 0)

	netbacks.set("rate", "51200,50000")
	declared.set("rate", "51200,50000")
	rated.set("rate", "51200,50000")
	limited(rated, 1000)
	limited(netbacks, 0)
	limited(declared, 500)
	free.set("rate", "25600,50000")
	limited(free, 500)
	x.reaches(guests[free].Node, x.echo())
	free.unset("rate")
	limited(free, 0)
	x.reaches(guests[free].Node, x.echo())

	for i, bad := range []string{"fast", "25600", "25600,", "-1,50000", "25600,50000,1", "2e4,50000", ""} {
		rated.set("rate", bad)
		lab.Eventually(t, 20*time.Second, func() error {
			if n := strings.Count(x.daemon.Output(), "leave the limits of a guest as they are"); n != i+1 {
				return fmt.Errorf("rate %q: %d warnings, want %d\n%s", bad, n, i+1, x.daemon.Output())
			}
			return nil
		})
	}
	limited(rated, 1000)

	x.daemon.Kill9()
	watched(0, 0)
	rated.set("rate", "204800,50000")
	x.must(x.daemon.Start())
	limited(rated, 4000)
	// What was said last counts, and another daemon says nothing.
	x.viaduct("port-bandwidth", "lan", rated.link(), "--inbound", "700", "--outbound", "700")
	x.daemon.Kill9()
	x.must(x.daemon.Start())
	watched(1, 2)
	free.set("rate", "25600,50000")
	limited(free, 500)
	limited(rated, 700)
	rated.set("rate", "102400,50000")
	limited(rated, 2000)

	free.gone()
	watched(1, 1)
	free.connected()
	limited(free, 500)
	watched(1, 2)
	free.set("rate", "51200,50000")
	limited(free, 1000)
	// A guest that is gone without a word to the script.
	guests[free].Unplug()
	x.store.Remove(free.backend())
	for _, n := range []*nic{free, rated, netbacks, declared} {
		n.gone()
	}
	watched(0, 0)
}
