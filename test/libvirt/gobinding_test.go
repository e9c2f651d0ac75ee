package libvirt

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/go-cmp/cmp"

	"viaduct/internal/lab"
	"viaduct/internal/libvirtrpc/rpctest"
	"viaduct/internal/libvirtrpc/wire"
	"viaduct/internal/libvirtrpc/xdr"
)

// overheard is a connection that keeps what comes in beside its reader:
// go-libvirt drops events of networks, and the domains of errors.
type overheard struct {
	net.Conn
	copy *io.PipeWriter

	mu       sync.Mutex
	events   []string
	failures []rpctest.Failure
}

func overhear(c net.Conn) *overheard {
	r, w := io.Pipe()
	o := &overheard{Conn: c, copy: w}
	go func() {
		for {
			h, payload, err := wire.Read(r, wire.MaxPayload)
			if err != nil {
				r.CloseWithError(err)
				return
			}
			o.note(h, xdr.NewDecoder(payload))
		}
	}()
	return o
}

func (o *overheard) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	o.copy.Write(b[:n])
	if err != nil {
		o.copy.CloseWithError(err)
	}
	return n, err
}

// note keeps an event, as "callback kind network detail", or an error.
func (o *overheard) note(h wire.Header, d *xdr.Decoder) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case h.Type == wire.Reply && h.Status == wire.Error:
		o.failures = append(o.failures, *rpctest.ReadFailure(d))
	case h.Type == wire.Message && h.Procedure == 315:
		callback, name, _ := d.Int32(), d.String(), d.UUID()
		o.events = append(o.events, fmt.Sprintf("%d %s %s", callback, name,
			[]string{"defined", "undefined", "started", "stopped"}[d.Uint32()]))
	case h.Type == wire.Message && h.Procedure == 446:
		callback, name, _, kind := d.Int32(), d.String(), d.UUID(), d.Int32()
		uri := "-"
		if s := d.OptionalString(); s != nil {
			uri = *s
		}
		o.events = append(o.events, fmt.Sprintf("%d %s metadata %d %s", callback, name, kind, uri))
	}
}

func (o *overheard) heard() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.events)
}

// last is the last error that came in.
func (o *overheard) last() rpctest.Failure {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.failures) == 0 {
		return rpctest.Failure{}
	}
	return o.failures[len(o.failures)-1]
}

// goClient is Terraform's way to libvirt.
func (s *server) goClient() (*golibvirt.Libvirt, *overheard) {
	s.t.Helper()
	var conn net.Conn
	s.must(s.host.Do(func() (err error) {
		conn, err = net.Dial("unix", socket)
		return err
	}))
	o := overhear(conn)
	l := golibvirt.NewWithDialer(dialers.NewAlreadyConnected(o)) // others cannot enter the host
	s.must(l.ConnectToURI("network:///system"))
	s.t.Cleanup(func() {
		if err := l.Disconnect(); err != nil {
			s.t.Error(err)
		}
	})
	return l, o
}

// The domains of errors (virErrorDomain).
const (
	fromNetwork = 19
	fromXML     = 5
	fromNowhere = 0
)

func TestGoLibvirt(t *testing.T) {
	s := newOurs(t)
	l, wire := s.goClient()
	ok := func(err error) {
		t.Helper()
		s.must(err)
	}
	fails := func(err error, code golibvirt.ErrorNumber, domain int32, message string) {
		t.Helper()
		var e golibvirt.Error
		if !errors.As(err, &e) || e.Code != uint32(code) || e.Message != message {
			t.Errorf("%v, want error %d: %s", err, code, message)
		} else if f := wire.last(); f.Domain != domain || f.Level != 2 {
			t.Errorf("%s is of domain %d and level %d, want %d and 2", message, f.Domain, f.Level, domain)
		}
	}
	is := func(what string, got any, err error, want any) {
		t.Helper()
		ok(err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	events, err := l.ConnectNetworkEventRegisterAny(int32(golibvirt.NetworkEventIDLifecycle), nil)
	ok(err)

	// The connection.
	kind, err := l.ConnectGetType()
	is("type", kind, err, "network")
	version, err := l.ConnectGetLibVersion()
	is("version", version, err, uint64(10007000))
	address, err := l.ConnectGetUri()
	is("uri", address, err, "network:///system")
	secure, err := l.ConnectIsSecure()
	is("secure", secure, err, int32(1))
	_, err = l.ConnectGetHostname()
	fails(err, golibvirt.ErrNoSupport, fromNowhere, "this function is not supported by the connection driver: virConnectGetHostname")

	// A definition, and those that are refused.
	xml := natXML("lan", 50, "<domain name='lan.test' localOnly='yes'/>")
	lan, err := l.NetworkDefineXMLFlags(xml, uint32(golibvirt.NetworkDefineValidate))
	ok(err)
	is("name", lan.Name, nil, "lan")
	_, err = l.NetworkDefineXMLFlags(xml, 2)
	fails(err, golibvirt.ErrInvalidArg, fromNetwork, "invalid argument: unsupported flags (0x2) in function networkDefineXMLFlags")
	_, err = l.NetworkCreateXMLFlags(natXML("other", 51, ""), 4)
	fails(err, golibvirt.ErrInvalidArg, fromNetwork, "invalid argument: unsupported flags (0x4) in function networkCreateXMLFlags")
	_, err = l.NetworkDefineXML("<network><name>x</name>")
	var e golibvirt.Error
	if !errors.As(err, &e) || e.Code != uint32(golibvirt.ErrXMLDetail) || wire.last().Domain != fromNetwork {
		t.Errorf("broken XML: %v, domain %d", err, wire.last().Domain)
	}
	_, err = l.NetworkDefineXML("<net/>")
	fails(err, golibvirt.ErrXMLError, fromXML, "XML error: expecting root element of 'network', not 'net'")
	_, err = l.NetworkDefineXML("<network><name>x</name><ip address='192.168.5.1' prefix='24'><dhcp><range start='192.168.5.9' end='192.168.5.2'/></dhcp></ip></network>")
	fails(err, golibvirt.ErrInternalError, fromNowhere, "internal error: range 192.168.5.9 - 192.168.5.2 is reversed ")
	_, err = l.NetworkDefineXML("<network><name>x</name><forward mode='nat'/></network>")
	fails(err, golibvirt.ErrXMLError, fromNetwork,
		"XML error: nat forwarding requested, but no IP address provided for network 'x'")
	_, err = l.NetworkLookupByName("nope")
	fails(err, golibvirt.ErrNoNetwork, fromNetwork, "Network not found: no network with matching name 'nope'")
	nope := golibvirt.Network{Name: "nope"}
	fails(l.NetworkCreate(nope), golibvirt.ErrNoNetwork, fromNetwork,
		"Network not found: no network with matching uuid '00000000-0000-0000-0000-000000000000' (nope)")

	// Lists and marks.
	again, err := l.NetworkLookupByUUID(lan.UUID)
	is("look-up", again, err, lan)
	names, err := l.ConnectListDefinedNetworks(10)
	is("inactive", names, err, []string{"lan"})
	count, err := l.ConnectNumOfNetworks()
	is("number of active ones", count, err, int32(0))
	ok(l.NetworkSetAutostart(lan, 1))
	on, err := l.NetworkGetAutostart(lan)
	is("autostart", on, err, int32(1))
	marked, total, err := l.ConnectListAllNetworks(1, golibvirt.ConnectListNetworksAutostart|golibvirt.ConnectListNetworksInactive)
	is("marked", marked, err, []golibvirt.Network{lan})
	is("their number", total, nil, uint32(1))
	persistent, err := l.NetworkIsPersistent(lan)
	is("persistent", persistent, err, int32(1))

	// A start, a guest, changes.
	fails(l.NetworkDestroy(lan), golibvirt.ErrOperationInvalid, fromNetwork, "Requested operation is not valid: network 'lan' is not active")
	ok(l.NetworkCreate(lan))
	fails(l.NetworkCreate(lan), golibvirt.ErrOperationInvalid, fromNetwork, "Requested operation is not valid: network is already active")
	active, err := l.NetworkIsActive(lan)
	is("active", active, err, int32(1))
	bridge, err := l.NetworkGetBridgeName(lan)
	is("bridge", bridge, err, "virbr50")
	g := s.PlugGuest(s.host.Node, "virbr50", "one")
	mac := strings.ToLower(g.MAC.String())
	host := fmt.Sprintf("<host mac='%s' name='one' ip='192.168.50.77'/>", mac)
	both := golibvirt.NetworkUpdateAffectLive | golibvirt.NetworkUpdateAffectConfig
	ok(l.NetworkUpdateCompat(lan, golibvirt.NetworkUpdateCommandAddLast, golibvirt.NetworkSectionIPDhcpHost, -1, host, both))
	fails(l.NetworkUpdateCompat(lan, golibvirt.NetworkUpdateCommandAddLast, golibvirt.NetworkSectionIPDhcpHost, -1, host, both),
		golibvirt.ErrOperationInvalid, fromNetwork, fmt.Sprintf("Requested operation is not valid: there is an existing dhcp host entry in network 'lan' that matches \"<host mac='%s' name='one' ip='192.168.50.77'/>\"", mac))
	fails(l.NetworkUpdateCompat(lan, golibvirt.NetworkUpdateCommandAddLast, golibvirt.NetworkSectionIP, -1, "<ip/>", both),
		golibvirt.ErrOperationUnsupported, fromNetwork, "Operation not supported: can't update 'ip' section of network 'lan'")
	if seen := s.lease(g); seen.Addr.Addr() != addr("192.168.50.77") {
		t.Errorf("the guest got %+v", seen)
	}
	leases, number, err := l.NetworkGetDhcpLeases(lan, golibvirt.OptString{mac}, 1, 0)
	ok(err)
	if len(leases) != 1 || number != 1 || time.Unix(leases[0].Expirytime, 0).Before(time.Now()) {
		t.Fatalf("leases %+v", leases)
	}
	want := golibvirt.NetworkDhcpLease{Iface: "virbr50", Expirytime: leases[0].Expirytime, Mac: golibvirt.OptString{mac}, Ipaddr: "192.168.50.77", Prefix: 24,
		Hostname: leases[0].Hostname, Clientid: leases[0].Clientid}
	is("lease", leases[0], nil, want)
	_, _, err = l.NetworkGetDhcpLeases(lan, golibvirt.OptString{"52:54"}, 1, 0)
	fails(err, golibvirt.ErrInvalidMac, fromNetwork, "invalid MAC address: 52:54")

	// Texts, which virsh 9.0.0 does not know.
	told, err := l.ConnectNetworkEventRegisterAny(int32(golibvirt.NetworkEventIDMetadataChange), golibvirt.OptNetwork{lan})
	ok(err)
	const app = "urn:test:app"
	desc, title, element := int32(golibvirt.NetworkMetadataDescription), int32(golibvirt.NetworkMetadataTitle), int32(golibvirt.NetworkMetadataElement)
	missing := "metadata not found: Requested metadata element is not present"
	_, err = l.NetworkGetMetadata(lan, desc, nil, 0)
	fails(err, golibvirt.ErrNoNetworkMetadata, fromNetwork, missing)
	ok(l.NetworkSetMetadata(lan, desc, golibvirt.OptString{"The office.\nAll of it."}, nil, nil, uint32(both)))
	ok(l.NetworkSetMetadata(lan, title, golibvirt.OptString{"Office"}, nil, nil, uint32(both)))
	ok(l.NetworkSetMetadata(lan, element, golibvirt.OptString{"<owner><name>me</name></owner>"}, golibvirt.OptString{"app"}, golibvirt.OptString{app}, uint32(both)))
	for _, flags := range []uint32{0, uint32(golibvirt.NetworkUpdateAffectLive), uint32(golibvirt.NetworkUpdateAffectConfig)} {
		text, err := l.NetworkGetMetadata(lan, desc, nil, flags)
		is("description", text, err, "The office.\nAll of it.")
		text, err = l.NetworkGetMetadata(lan, title, nil, flags)
		is("title", text, err, "Office")
		text, err = l.NetworkGetMetadata(lan, element, golibvirt.OptString{app}, flags)
		is("metadata", text, err, "<owner>\n  <name>me</name>\n</owner>")
	}
	shown, err := l.NetworkGetXMLDesc(lan, uint32(golibvirt.NetworkXMLInactive))
	ok(err)
	for _, part := range []string{"<title>Office</title>", "<description>The office.\nAll of it.</description>", "<app:owner xmlns:app=\"urn:test:app\">"} {
		if !strings.Contains(shown, part) {
			t.Errorf("no %s in\n%s", part, shown)
		}
	}
	fails(l.NetworkSetMetadata(lan, title, golibvirt.OptString{"a\nb"}, nil, nil, 0), golibvirt.ErrInvalidArg, fromNetwork,
		"invalid argument: metadata title can't contain newlines")
	fails(l.NetworkSetMetadata(lan, 3, golibvirt.OptString{"a"}, nil, nil, 0), golibvirt.ErrInvalidArg, fromNetwork, "invalid argument: unknown metadata type '3'")
	ok(l.NetworkSetMetadata(lan, element, nil, nil, golibvirt.OptString{app}, uint32(both)))
	_, err = l.NetworkGetMetadata(lan, element, golibvirt.OptString{app}, 0)
	fails(err, golibvirt.ErrNoNetworkMetadata, fromNetwork, missing)

	s.goPorts(l, lan, is, fails)

	// The end, and a network that does not stay.
	ok(l.NetworkDestroy(lan))
	ok(l.NetworkUndefine(lan))
	fails(l.NetworkUndefine(lan), golibvirt.ErrNoNetwork, fromNetwork, fmt.Sprintf("Network not found: no network with matching uuid '%s' (lan)", text(lan.UUID)))
	passing, err := l.NetworkCreateXMLFlags(natXML("passing", 52, ""), uint32(golibvirt.NetworkCreateValidate))
	ok(err)
	persistent, err = l.NetworkIsPersistent(passing)
	is("persistent", persistent, err, int32(0))
	fails(l.NetworkSetAutostart(passing, 1), golibvirt.ErrOperationInvalid, fromNetwork, "Requested operation is not valid: cannot set autostart for transient network")
	ok(l.NetworkDestroy(passing))

	of := func(callback int32, list ...string) (events []string) {
		for _, e := range list {
			events = append(events, fmt.Sprintf("%d %s", callback, e))
		}
		return events
	}
	expected := slices.Concat(of(events, "lan defined", "lan started"),
		of(told, "lan metadata 0 -", "lan metadata 1 -", "lan metadata 2 "+app, "lan metadata 2 "+app),
		of(events, "lan stopped", "lan undefined", "passing started", "passing stopped"))
	lab.Eventually(t, 10*time.Second, func() error {
		if diff := cmp.Diff(expected, wire.heard()); diff != "" {
			return fmt.Errorf("events (-want +got):\n%s", diff)
		}
		return nil
	})
	ok(l.ConnectNetworkEventDeregisterAny(told))
	fails(l.ConnectNetworkEventDeregisterAny(told), golibvirt.ErrInternalError, fromNetwork, fmt.Sprintf("internal error: network event callback %d not registered", told))
}

// goPorts makes, reads, changes and deletes a port.
func (s *server) goPorts(l *golibvirt.Libvirt, lan golibvirt.Network, is func(string, any, error, any), fails func(error, golibvirt.ErrorNumber, int32, string)) {
	s.t.Helper()
	const id = "0b3c9fae-7a0b-4c3e-8f6d-0d9c5a0e5b11"
	xml := "<networkport><uuid>" + id + "</uuid>" + ownerXML + "<mac address='52:54:00:50:00:09'/></networkport>"
	port, err := l.NetworkPortCreateXML(lan, xml, 0)
	is("port", text(port.UUID), err, id)
	_, err = l.NetworkPortCreateXML(lan, xml, uint32(golibvirt.NetworkPortCreateReclaim))
	fails(err, golibvirt.ErrInvalidArg, fromNetwork, "invalid argument: Port reclaim requested but plug type is none")
	_, err = l.NetworkPortCreateXML(lan, xml, 0)
	fails(err, golibvirt.ErrNetworkPortExist, fromNetwork, "Network port with UUID "+id+" already exists")
	list, total, err := l.NetworkListAllPorts(lan, 1, 0)
	is("ports", list, err, []golibvirt.NetworkPort{port})
	is("their number", total, nil, uint32(1))
	found, err := l.NetworkPortLookupByUUID(lan, port.UUID)
	is("look-up", found, err, port)
	shown, err := l.NetworkPortGetXMLDesc(port, 0)
	s.must(err)
	if !strings.Contains(shown, "<plug type='network' bridge='virbr50'/>") {
		s.t.Errorf("the port has no plug:\n%s", shown)
	}
	params := []golibvirt.TypedParam{
		{Field: "inbound.average", Value: *golibvirt.NewTypedParamValueUint(1000)}, {Field: "inbound.peak", Value: *golibvirt.NewTypedParamValueUint(2000)},
		{Field: "outbound.average", Value: *golibvirt.NewTypedParamValueUint(500)},
	}
	s.must(l.NetworkPortSetParameters(port, params, 0))
	_, number, err := l.NetworkPortGetParameters(port, 0, 0)
	is("number of parameters", number, err, int32(7))
	got, _, err := l.NetworkPortGetParameters(port, number, 0)
	s.must(err)
	values := map[string]any{}
	for _, p := range got {
		values[p.Field] = p.Value.I
	}
	is("parameters", values, nil, map[string]any{
		"inbound.average": uint32(1000), "inbound.peak": uint32(2000), "inbound.burst": uint32(0), "inbound.floor": uint32(0),
		"outbound.average": uint32(500), "outbound.peak": uint32(0), "outbound.burst": uint32(0),
	})
	fails(l.NetworkPortSetParameters(port, []golibvirt.TypedParam{{Field: "nope", Value: *golibvirt.NewTypedParamValueUint(1)}}, 0),
		golibvirt.ErrArgumentUnsupported, fromNetwork, "argument unsupported: parameter 'nope' not supported")
	s.must(l.NetworkPortDelete(port, 0))
	fails(l.NetworkPortDelete(port, 0), golibvirt.ErrNoNetworkPort, fromNetwork, "network port not found: Network port with UUID "+id+" does not exist")
}

// text is how people write a UUID.
func text(u golibvirt.UUID) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
